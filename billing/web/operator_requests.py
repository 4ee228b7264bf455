"""Operators: everyone's keys with what they spend, everyone's requests, metered and refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from billing.api.keys import list_keys, revoke_key
from billing.api.oversight import get_refusal, list_refusals
from billing.api.route import Table
from billing.api.usage import list_all_events
from billing.ledger.explanations import explain
from billing.schemas.keys import KeysQuery
from billing.schemas.system import RefusedQuery
from billing.schemas.usage import AllEventsQuery, ExplainedEventShape
from billing.web.lists import REFUSED, Act, Column, Field, Listed, listed
from billing.web.pages import NOTICES, Page, View, Visit, Who
from billing.web.render import seconds_text
from billing.web.requests import LAST, ORDERS, SLOWEST, result_of, since_asked, tokens_a_second

if TYPE_CHECKING:
    from aiohttp import web

    from billing.schemas.usage import EventShape


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
    Column("Key", "key_id", "name"),
    Column("Model", "model"),
    Column("Provider", "provider"),
    Column("Attempts", "attempts", "count"),
    Column("Tokens", "total_tokens", "count"),
    Column("Latency", "latency", "number"),
    Column("First token", "first_token", "number"),
    Column("Tokens/s", "speed", "number"),
    Column("Charge", "charge_usd", "money"),
    Column("Cost", "cost_usd", "money"),
    Column("Outcome", "result", "state"),
)
TABS: Final = (("Metered", "/operator/requests"), ("Refused", "/operator/requests/refused"))
_FILTERS: Final = (
    Field("account_id", "Account", "search", picks="account"),
    Field("key_id", "Key", picks="key"),
    Field("last", "The last", options=LAST),
    Field("id", "Request id"),
    Field("model", "Model"),
    Field("provider", "Provider"),
    Field("status", "Status"),
    Field("tag", "Tag, as NAME or NAME=VALUE"),
    Field("session", "Session"),
    Field("end_user", "End user"),
    Field("min_latency_ms", "At least so many ms"),
    Field("order", "Order", options=ORDERS),
    Field("since", "Since (UTC)"),
    Field("until", "Until (UTC)"),
)


class _Logged:
    """A request as a row of the log."""

    __slots__ = (
        "account_id",
        "attempts",
        "charge_usd",
        "cost_usd",
        "created_at",
        "first_token",
        "id",
        "key_id",
        "latency",
        "model",
        "provider",
        "result",
        "speed",
        "total_tokens",
    )

    def __init__(self, event: EventShape) -> None:
        self.id, self.created_at = event.id, event.created_at
        self.account_id, self.key_id = event.account_id, event.key_id
        self.model, self.provider = event.model, event.provider
        self.attempts, self.total_tokens = event.attempts, event.total_tokens
        self.charge_usd, self.cost_usd = event.charge_usd, event.cost_usd
        self.latency, self.first_token = seconds_text(event.latency_ms), seconds_text(event.ttft_ms)
        self.speed, self.result = tokens_a_second(event), result_of(event)


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
    tabs = ("Keys", "/operator/keys"), ("Create a key", "/operator/keys/new")
    return listed("Keys", table, filters=(Field("account_id", "Account", "search", picks="account"),), tabs=tabs)


async def revoke(visit: Visit) -> web.Response:
    """Revoke a key."""
    await revoke_key(visit.call)
    return visit.see("/operator/keys", "revoked")


async def requests(visit: Visit) -> View | Table | web.Response:
    """Show the requests of all accounts, newest first, or lead to one by its id."""
    asked = visit.request.query
    if asked.get("id"):
        return visit.see(f"/operator/requests/{quote(asked['id'].strip(), safe='')}")
    found = await list_all_events(visit.call, visit.query(AllEventsQuery, **since_asked(visit)))
    if isinstance(found, Table):
        return found
    more = " here, but others may follow on the next page" if found.next_cursor else ""
    rows = [_Logged(each) for each in found.data]
    caption = SLOWEST if asked.get("order") == "slowest" else "Newest first"
    table = Listed(caption, _EVENTS, rows, found.next_cursor, empty=f"No matching request was found{more}.")
    live = not asked.get("cursor")
    return listed("Requests", table, filters=_FILTERS, tabs=TABS, live=live, csv=True, layout="wide")


async def refused(visit: Visit) -> View:
    """Show the last requests that were refused, of all accounts or of one."""
    account_id = visit.request.query.get("account_id") or None
    found = (
        await list_refusals(visit.call, visit.query(RefusedQuery, **({"account_id": account_id} if account_id else {})))
    ).data
    table = Listed("Newest first", REFUSED, found, empty="No requests were refused recently.")
    intro = "A refused request costs nothing. The latest of each key are kept for a while."
    filters = (Field("account_id", "Account", "search", picks="account"),)
    return listed("Refused requests", table, filters=filters, tabs=TABS, intro=intro, live=True)


async def request(visit: Visit) -> View:
    """Show one request with the lines of its charge, or why it was refused."""
    request_id = visit.call.id("request_id")
    found = await visit.services.reports.priced_event(request_id)
    values: dict[str, Any]
    ids: tuple[str | None, ...]
    if found is None:
        refusal = await get_refusal(visit.call)
        ids = refusal.account_id, refusal.key_id, None
        values = {"event": None, "refusal": refusal, "of": {}}
    else:
        event = ExplainedEventShape.of_explanation(explain(*found), with_cost=True)
        ids = event.account_id, event.key_id, event.user_id
        values = {"event": event, "refusal": None, "of": {"account_id": event.account_id}}
    names = await visit.services.audit.names(ids)
    return View("request.html", {**values, "names": names, "with_cost": True, "list": "/operator/requests"})


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/keys", keys, Who.operator),
    Page("POST", "/operator/keys/{key_id}/revoke", revoke, Who.operator),
    Page("GET", "/operator/requests", requests, Who.operator, csv=True),
    Page("GET", "/operator/requests/refused", refused, Who.operator),
    Page("GET", "/operator/requests/{request_id}", request, Who.operator),
)
