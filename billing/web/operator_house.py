"""Operators: the first page with money and health; providers, people, and the audit log."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from msgspec import UNSET, json, structs

from billing.api.oversight import get_user, list_audit, list_exports, list_providers, list_users, update_user
from billing.api.route import Table, rows
from billing.errors import StoreError
from billing.ledger.reports import Margin, MarginBy
from billing.money import NANO_PER_CENT, format_cents
from billing.schemas.people import UserPatch, UsersQuery
from billing.schemas.system import AuditQuery, RefusedShape
from billing.web.lists import REFUSED, Column, Field, Figure, Form, Listed, detailed, listed
from billing.web.pages import Page, View, Visit, Who

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from billing.api.services import Services
    from billing.payments.orders import ChargeSums
    from billing.schemas.system import ProviderShape, TargetShape

_TARGETS: Final = (
    Column("Provider", "provider"),
    Column("State", "state", "state"),
    Column("Off because", "off_reason"),
    Column("Base URL and key", "target"),
    Column("Tried again", "open_until", "time"),
    Column("Models", "models"),
)
_PEOPLE: Final = (
    Column("E-mail", "email", href="/operator/people/{id}"),
    Column("Name", "name"),
    Column("Status", "status", "state"),
    Column("Verified", "verified"),
    Column("Operator", "operator"),
    Column("Second factor", "second_factor"),
    Column("Last sign-in", "last_sign_in_at", "time"),
    Column("Made", "created_at", "time"),
)
_ORGANIZATIONS: Final = (Column("Organization", "name"), Column("Role", "role"), Column("Id", "id", "code"))
_AUDIT: Final = (
    Column("Time", "created_at", "time"),
    Column("Who", "actor", "code"),
    Column("Did", "action"),
    Column("To", "subject", "code"),
    Column("Account", "account_id", "code", "/operator/accounts/{account_id}"),
    Column("Changed", "after", "changes"),
    Column("From", "address"),
)
_AUDIT_CSV: Final = ("created_at", "actor", "action", "subject", "account_id", "before", "after", "address")
# What the API's states of a target are called here: a circuit that is closed lets requests through.
_STATES: Final = {"closed": "on", "open": "paused", "half_open": "tried again"}
DAYS: Final = 30
# How old the sums of the first page may be: they are read over all accounts.
KEPT_S: Final = 60.0
# Refusals that the first page has.
LAST: Final = 10


class Money:
    """The sums of the first page, over all accounts: read at most once in `KEPT_S`, whoever looks how often."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._kept: tuple[Margin, Margin, ChargeSums | None] | None = None
        self._day: datetime | None = None
        self._until_s = 0.0

    async def read(self, services: Services, today: datetime) -> tuple[Margin, Margin, ChargeSums | None]:
        """Return the margin of today and of the last `DAYS`, and what customers paid in these, None where payments are
        off. Raises `DatabaseError`."""
        async with self._reading:
            if self._kept is None or self._day != today or services.clock() >= self._until_s:
                since, until = today - timedelta(days=DAYS - 1), today + timedelta(days=1)
                found = await services.reports.margins.read(since, until, MarginBy.day)
                last = dict(found.groups).get(today.date().isoformat(), Margin())
                paid = None if services.payments is None else await services.payments.charges.sums(since, until)
                self._kept = last, found.total, paid
                self._day, self._until_s = today, services.clock() + KEPT_S
            return self._kept


MONEY: Final = web.AppKey("operator_money", Money)


async def home(visit: Visit) -> View:
    """Show money, health and what waits; each number leads to what it is made of."""
    services = visit.services
    today = datetime.fromtimestamp(services.clock(), UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    since, until = today - timedelta(days=DAYS - 1), today + timedelta(days=1)
    last, month, paid = await visit.request.config_dict[MONEY].read(services, today)
    job = await services.job()
    troubles = services.troubles()
    span = f"since={since.date()}&until={until.date()}"
    days = f"/operator/margin?by=day&{span}"
    queue = 0
    if services.payments is not None:
        await services.payments.orders.refresh_stats()
        queue = services.payments.orders.waiting
    exports = (await list_exports(visit.call)).data
    drifts: int | str = "not looked at" if job is None or job.drifts is UNSET else len(job.drifts)
    figures = (
        Figure("Health", "degraded" if troubles else "ok", "state", "; ".join(troubles)),
        _money_in(paid, f"/operator/payments?{span}"),
        Figure("Charged", month.used.charged_nano, "money", f"in {DAYS} days", days),
        Figure("Margin", month.net_nano, "money", "charged less cost and refunds", days),
        Figure("Charged today", last.used.charged_nano, "money", f"{last.used.requests:,} requests (UTC)", days),
        Figure("Without a price", month.unpriced.requests, "count", "requests whose cost nobody knows", days),
        Figure("Drift", drifts, "text", f"last job: {'none' if job is None else job.status}", "/operator/jobs"),
        Figure("Money not credited", queue, "count", "waits for a decision", "/operator/payments/parked"),
        Figure("Not exported", sum(each.waiting for each in exports), "count", "events", "/operator/exports"),
    )
    refused = await _refused(visit)
    table = Listed("Recent refusals", REFUSED, refused, empty="Nothing was refused lately.")
    return listed("Home", table, figures=figures, live=True, intro="Money is a minute old at most.")


def _money_in(paid: ChargeSums | None, link: str) -> Figure:
    """Return what customers paid in `DAYS` days, which leads to the payments that it is the sum of."""
    if paid is None:
        return Figure("Money in", "payments are off", "text")
    words = f"{paid.payments:,} payments in {DAYS} days"
    gone = paid.refunded_cents + paid.disputed_cents
    if gone:
        words += f", of which {format_cents(gone)} USD went back"
    return Figure("Money in", paid.paid_cents * NANO_PER_CENT, "money", words, link)


async def _refused(visit: Visit) -> list[RefusedShape]:
    """Return what was refused last; nothing where Redis, which has it, is away: the health says so."""
    try:
        return [RefusedShape.of_refused(each, with_hint=True) for each in await visit.services.refused.newest(LAST)]
    except StoreError:
        return []


class _Target:
    """One base URL and key of a provider, as a row. The key is never shown, only how it does."""

    __slots__ = ("models", "off_reason", "open_until", "provider", "state", "target")

    def __init__(self, provider: ProviderShape, target: TargetShape | None) -> None:
        kind = "" if provider.kind == provider.name else f" ({provider.kind})"
        self.provider, self.models = f"{provider.name}{kind}", provider.models
        self.state: str = "off" if provider.off_reason else "on" if target is None else _STATES[target.state]
        self.off_reason = provider.off_reason
        self.target = "" if target is None else f"{target.number}: {target.origin}, weight {target.weight}"
        self.open_until = None if target is None else target.open_until


async def providers(visit: Visit) -> View:
    """Show who answers, and how their base URLs and keys do."""
    found = (await list_providers(visit.call)).data
    shown = [_Target(each, target) for each in found for target in each.targets or (None,)]
    intro = "A target that failed too often is paused until the time shown; one request then tries it again."
    return listed("Providers", Listed("As the gateways have found them", _TARGETS, shown), intro=intro, live=True)


async def people(visit: Visit) -> View:
    """Show people, newest first."""
    found = await list_users(visit.call, visit.query(UsersQuery))
    states = (("", "any"), ("pending", "waiting for approval"), ("active", "active"), ("disabled", "disabled"))
    filters = Field("email", "E-mail", "search"), Field("status", "Status", options=states)
    table = Listed("Newest first", _PEOPLE, found.data, found.next_cursor, empty="Nobody is like that.")
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
        "Take the operator's right" if found.operator else "Make an operator",
        here,
        "Change",
        hint="Operators see and change everything.",
        hidden={"operator": "no" if found.operator else "yes"},
        danger=not found.operator,
    )
    table = Listed("Organizations", _ORGANIZATIONS, found.organizations, empty="They belong to none.")
    return detailed(found.email, found, _PEOPLE[1:], table, forms=(allow, right))


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
    filters = tuple(
        Field(name, label) for name, label in (("action", "Action"), ("actor", "Who"), ("account_id", "Account"))
    )
    ids = (text for each in found.data for text in (each.actor, each.subject, each.account_id))
    names = await visit.services.audit.names(ids)
    columns = tuple(replace(column, names=names) if column.kind == "code" else column for column in _AUDIT)
    table = Listed("Newest first", columns, found.data, found.next_cursor, empty="Nothing of that was done.")
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
    Page("GET", "/operator", home, Who.operator),
    Page("GET", "/operator/providers", providers, Who.operator),
    Page("GET", "/operator/people", people, Who.operator),
    Page("GET", "/operator/people/{user_id}", person, Who.operator),
    Page("POST", "/operator/people/{user_id}", change_person, Who.operator, again=person),
    Page("GET", "/operator/audit", audit, Who.operator, csv=True),
)
