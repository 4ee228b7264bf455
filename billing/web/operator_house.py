"""Operators: people, and the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from msgspec import json, structs

from billing.api.oversight import get_user, list_audit, list_users, update_user
from billing.api.route import Table, rows
from billing.identity.devices import device_of
from billing.schemas.people import UserPatch, UsersQuery
from billing.schemas.system import AuditQuery
from billing.web.lists import Column, Field, Form, Listed, detailed, listed
from billing.web.pages import Page, View, Visit, Who

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from billing.identity.sessions import MembersSession, Session


_PEOPLE: Final = (
    Column("E-mail", "email", href="/operator/people/{id}"),
    Column("Name", "name"),
    Column("Status", "status", "state"),
    Column("Verified", "verified"),
    Column("Operator", "operator"),
    Column("Second factor", "second_factor"),
    Column("Last sign-in", "last_sign_in_at", "time"),
    Column("Created", "created_at", "time"),
)
_ORGANIZATIONS: Final = (Column("Organization", "name"), Column("Role", "role"), Column("Id", "id", "code"))
# Sessions that the page of a person has.
SESSIONS: Final = 20
SIGNED_IN: Final = (
    Column("Device", "device"),
    Column("From", "address"),
    Column("Last used", "last_used_at", "time"),
    Column("Until", "expires_at", "time"),
)
_AUDIT: Final = (
    Column("Time", "created_at", "time"),
    Column("Who", "actor", "name"),
    Column("Did", "action"),
    Column("To", "subject", "name"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("Changed", "after", "changes"),
    Column("From", "address"),
)
_AUDIT_CSV: Final = ("created_at", "actor", "action", "subject", "account_id", "before", "after", "address")


class Device:
    """A session as a row, by what its device is called."""

    __slots__ = ("address", "device", "expires_at", "last_used_at", "user_id")

    def __init__(self, session: Session | MembersSession, user_id: str) -> None:
        self.user_id = user_id
        self.device, self.address = device_of(session.user_agent), session.address
        self.last_used_at, self.expires_at = session.last_used_at, session.expires_at


async def people(visit: Visit) -> View:
    """Show people, newest first."""
    found = await list_users(visit.call, visit.query(UsersQuery))
    states = (("", "any"), ("pending", "waiting for approval"), ("active", "active"), ("disabled", "disabled"))
    filters = Field("email", "E-mail", "search"), Field("status", "Status", options=states)
    empty = "Nobody matches." if visit.request.query_string else "Nobody has registered yet."
    table = Listed("Newest first", _PEOPLE, found.data, found.next_cursor, empty=empty)
    return listed("People", table, filters=filters)


async def person(visit: Visit) -> View:
    """Show one person, where they belong, and what an operator may do."""
    found = await get_user(visit.call)
    here = f"/operator/people/{found.id}"
    if found.status == "active":
        allow = Form("Disable", here, "Disable", hint=_DISABLING, hidden={"status": "disabled"}, danger=True)
    else:
        allow = Form("Let in", here, "Let in", hidden={"status": "active"})
    right = Form(
        "Remove operator rights" if found.operator else "Make an operator",
        here,
        "Change",
        hint="Operators see and change everything.",
        hidden={"operator": "no" if found.operator else "yes"},
        danger=not found.operator,
    )
    table = Listed("Organizations", _ORGANIZATIONS, found.organizations, empty="They belong to none.")
    sessions = (await visit.services.sessions.page(found.id, SESSIONS)).items
    devices = [Device(each, found.id) for each in sessions]
    signed_in = Listed("Where they are signed in", SIGNED_IN, devices, empty="Nowhere.")
    return detailed(found.email, found, _PEOPLE[1:], table, signed_in, forms=(allow, right))


_DISABLING: Final = "They are signed out everywhere at once. Their API keys are the account's and stay."


async def change_person(visit: Visit) -> web.Response:
    """Let a person in or out, or make them an operator or none."""
    operator = visit.field("operator")
    right = None if operator is None else operator == "yes"
    found = await update_user(visit.call, visit.body(UserPatch, status=visit.field("status"), operator=right))
    return visit.see(f"/operator/people/{found.id}", "saved")


async def audit(visit: Visit) -> View | Table:
    """Show what was done, newest first, or give it as a table."""
    query = visit.query(AuditQuery)
    if visit.wants_csv:
        return Table("audit", _audit_rows(visit, query))
    found = await list_audit(visit.call, query)
    filters = (
        Field("action", "Action"),
        Field("actor", "Who", hint="admin, user:usr_… or key:key_…"),
        Field("account_id", "Account", picks="account"),
    )
    table = Listed("Newest first", _AUDIT, found.data, found.next_cursor, empty="No entries match.")
    return listed("Audit", table, filters=filters, csv=True)


async def _audit_rows(visit: Visit, query: AuditQuery) -> AsyncIterator[bytes]:
    yield rows([_AUDIT_CSV])
    while True:
        found = await list_audit(visit.call, query)
        yield rows(tuple(_text(getattr(each, name)) for name in _AUDIT_CSV) for each in found.data)
        if found.next_cursor is None:
            return
        query = structs.replace(query, cursor=found.next_cursor)


def _text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else json.encode(value).decode()


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/people", people, Who.operator),
    Page("GET", "/operator/people/{user_id}", person, Who.operator),
    Page("POST", "/operator/people/{user_id}", change_person, Who.operator, again=person),
    Page("GET", "/operator/audit", audit, Who.operator, csv=True),
)
