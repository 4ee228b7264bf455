"""Operators: everyone's keys with what they spend, everyone's requests, metered and refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from billing.api.keys import list_keys, revoke_key
from billing.api.oversight import get_refusal
from billing.api.requests import encode_cursor, page_asked
from billing.errors import StoreError
from billing.ledger.explanations import explain
from billing.ledger.reports import EventFilter
from billing.pages import DEFAULT_LIMIT
from billing.schemas.base import Filter, PageQuery
from billing.schemas.keys import KeysQuery
from billing.schemas.system import RefusedShape
from billing.schemas.usage import EventShape, ExplainedEventShape
from billing.web.lists import REFUSED, Act, Column, Field, Listed, listed
from billing.web.pages import NOTICES, Page, View, Visit, Who

if TYPE_CHECKING:
    from aiohttp import web


NOTICES["revoked"] = "The key is revoked: it stops within a second."
_KEYS: Final = (
    Column("Name", "name"),
    Column("Key", "prefix", "code"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("User", "user_id", "name", "/operator/people/{user_id}"),
    Column("Spent", "spent_nano", "money"),
    Column("Last used", "last_used_at", "time"),
    Column("Expires", "expires_at", "time"),
    Column("Revoked", "revoked_at", "time"),
)
_EVENTS: Final = (
    Column("Time", "created_at", "time", "/operator/requests/{id}"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("Model", "model"),
    Column("Provider", "provider"),
    Column("Tokens", "total_tokens", "count"),
    Column("Cost", "cost_usd", "money"),
    Column("Charge", "charge_usd", "money"),
    Column("Outcome", "outcome", "state"),
)


class OperatorEvents(PageQuery, frozen=True, kw_only=True):
    """Which requests of an account: of a key, of a user, of a model as it was asked for."""

    account_id: Filter | None = None
    key_id: Filter | None = None
    user_id: Filter | None = None
    model: Filter | None = None
    id: Filter | None = None


@dataclass(frozen=True, slots=True)
class _SpentKey:
    """A key as the list shows it: `spent_nano` is what this month's requests were charged."""

    id: str
    name: str
    prefix: str
    account_id: str
    user_id: str | None
    spent_nano: int
    last_used_at: str | None
    expires_at: str | None
    revoked_at: str | None


async def keys(visit: Visit) -> View:
    """Show everyone's keys, newest first, each with what it has spent this month."""
    found = await list_keys(visit.call, visit.query(KeysQuery))
    now = datetime.fromtimestamp(visit.services.clock(), UTC)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    spent = await visit.services.reports.margins.spent_by_keys([(key.id, key.account_id) for key in found.data], month)
    rows = [
        _SpentKey(
            key.id,
            key.name,
            key.prefix,
            key.account_id,
            key.user_id,
            spent[key.id],
            key.last_used_at,
            key.expires_at,
            key.revoked_at,
        )
        for key in found.data
    ]
    revoke = Act(
        "Revoke",
        "/operator/keys/{id}/revoke",
        danger=True,
        confirm="Revoke this key? What uses it stops within a second.",
        only="revoked_at",
        among=(None,),
    )
    table = Listed("Newest first; spent in this month (UTC)", _KEYS, rows, found.next_cursor, (revoke,))
    return listed("Keys", table, filters=(Field("account_id", "Account", "search", picks="account"),))


async def revoke(visit: Visit) -> web.Response:
    """Revoke a key."""
    await revoke_key(visit.call)
    return visit.see("/operator/keys", "revoked")


async def requests(visit: Visit) -> View | web.Response:
    """Show the requests of an account, or lead to one by its id; without either, the last refusals of all accounts."""
    asked = visit.request.query
    if asked.get("id"):
        return visit.see(f"/operator/requests/{quote(asked['id'].strip(), safe='')}")
    filters = (
        Field("id", "Request id", "search"),
        Field("account_id", "Account", picks="account"),
        Field("model", "Model"),
    )
    account_id = asked.get("account_id")
    if not account_id:
        try:
            refused = [
                RefusedShape.of_refused(each, with_hint=True)
                for each in await visit.services.refused.newest(DEFAULT_LIMIT)
            ]
        except StoreError:
            refused = []
        table = Listed(
            "The last that were refused, of all accounts", REFUSED, refused, empty="Nothing was refused lately."
        )
        return listed("Requests", table, filters=filters, intro="Name an account to see what it was charged for.")
    query = visit.query(OperatorEvents)
    limit, after = page_asked(query)
    found = await visit.services.reports.usage_events(
        account_id, limit, after, EventFilter(key_id=query.key_id, user_id=query.user_id, model=query.model)
    )
    rows = [EventShape.of_event(each, with_cost=True) for each in found.items]
    table = Listed(
        "Newest first", _EVENTS, rows, encode_cursor(found.next_after), empty="No request of these was found here."
    )
    return listed("Requests", table, filters=filters, live=after is None)


async def request(visit: Visit) -> View:
    """Show one request with the lines of its charge, or why it was refused."""
    request_id = visit.call.id("request_id")
    found = await visit.services.reports.priced_event(request_id)
    values: dict[str, Any]
    if found is None:
        values = {"event": None, "refusal": await get_refusal(visit.call), "of": {}}
    else:
        event = ExplainedEventShape.of_explanation(explain(*found), with_cost=True)
        values = {"event": event, "refusal": None, "of": {"account_id": event.account_id}}
    return View("request.html", {**values, "names": {}, "with_cost": True, "list": "/operator/requests"})


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/keys", keys, Who.operator),
    Page("POST", "/operator/keys/{key_id}/revoke", revoke, Who.operator),
    Page("GET", "/operator/requests", requests, Who.operator),
    Page("GET", "/operator/requests/{request_id}", request, Who.operator),
)
