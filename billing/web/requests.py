"""Requests: the metered and the refused ones, one explained line by line, the models with their prices, and the
quickstart: the first request filled in, a playground on one's own key, and the requests as they arrive.

The key of the playground stays in the page's memory: the browser sends it to the proxy at this address, as any client
does, and never to the console.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast

from billing.api.requests import BadRequest, NotFound
from billing.api.route import Table
from billing.api.usage import get_event, list_events
from billing.errors import StoreError
from billing.pages import DEFAULT_LIMIT
from billing.permissions import BILLING_READ, KEYS_READ
from billing.quotas import names_model
from billing.schemas.system import RefusedShape
from billing.schemas.usage import EventQuery
from billing.times import rfc3339
from billing.web.forms import examples, models_of
from billing.web.pages import Page, View, Visit, key_names
from billing.web.render import seconds_text

if TYPE_CHECKING:
    from billing.schemas.base import Listing
    from billing.schemas.usage import EventShape

# Parameters of the list that its form has, as the API names them.
FILTERS: Final = (
    "model",
    "key_id",
    "user_id",
    "provider",
    "endpoint",
    "status",
    "tag",
    "end_user",
    "estimated",
    "session",
    "tool",
    "min_latency_ms",
    "order",
    "last",
    "since",
    "until",
)
# How long ago requests were made, as filters have it.
AGES: Final = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
ORDERS: Final = (("", "newest first"), ("slowest", "slowest first"))
SLOWEST: Final = "The slowest of the newest 10,000 in this time"
LAST: Final = (
    ("", "any time"),
    ("15m", "15 minutes"),
    ("1h", "hour"),
    ("24h", "24 hours"),
    ("7d", "7 days"),
    ("30d", "30 days"),
)
# Where the page of a request finds others like it, and by which further parameters.
OWN: Final = {"list": "/requests", "of": {}}
# Tokens a second are told with a tenth below a hundred.
_WHOLE_TENTHS: Final = 1_000
# Requests that the quickstart has.
FEW: Final = 3
YOUR_KEY: Final = "YOUR_KEY"


async def requests(visit: Visit) -> View | Table:
    """Show metered requests, newest first, or give them as a table."""
    found = await list_events(visit.call, visit.query(EventQuery, **since_asked(visit)))
    if isinstance(found, Table):
        return found
    asked = visit.request.query
    filters = {name: asked.get(name, "") for name in FILTERS}
    names = await key_names(visit, (each.key_id for each in found.data))
    keys = {**await key_names(visit), **names} if visit.may(KEYS_READ) else names
    values = {"page": found, "filters": filters, "names": names, "keys": keys, "ages": LAST, "orders": ORDERS}
    values["caption"] = SLOWEST if filters["order"] == "slowest" else "Newest first"
    return View("requests.html", {**values, "speed": tokens_a_second, "seconds": seconds_text})


def since_asked(visit: Visit) -> dict[str, str]:
    """Return when the time begins that `last` of the address names; nothing where it names none. Raises
    `BadRequest`."""
    last = visit.request.query.get("last")
    if not last:
        return {}
    if last not in AGES:
        raise BadRequest(f"last is one of {', '.join(AGES)}.", "last")
    return {"since": rfc3339(visit.now - AGES[last])}


def tokens_a_second(event: EventShape) -> str:
    """Return how fast output came, in tokens a second: of a stream from its first token on. Empty where it is not
    known."""
    # An answer that comes whole is there with its first byte: what is between that and its end says nothing.
    took_ms = (event.latency_ms or 0) - ((event.ttft_ms or 0) if event.stream else 0)
    if not event.output_tokens or took_ms <= 0:
        return ""
    tenths = event.output_tokens * 10_000 // took_ms
    return f"{tenths // 10:,}" if tenths >= _WHOLE_TENTHS else f"{tenths // 10}.{tenths % 10}"


def result_of(event: EventShape) -> str:
    """Return how a request ended, in a word."""
    if event.outcome == "settled":
        return "OK" if event.status == 200 else f"HTTP {event.status}"
    return event.outcome


async def refused(visit: Visit) -> View:
    """Show the last requests of the account that were refused, and why."""
    found = await _refusals(visit)
    names = await key_names(visit, (each.key_id for each in found or ()))
    return View("refused.html", {"refusals": found or [], "away": found is None, "names": names})


async def _refusals(visit: Visit) -> list[RefusedShape] | None:
    """Return the last refusals of the account; None where Redis, which has them, is away."""
    try:
        found = await visit.services.refused.newest(DEFAULT_LIMIT, account_id=visit.account_id)
    except StoreError:
        return None
    return [RefusedShape.of_refused(each, with_hint=False) for each in found]


async def request(visit: Visit) -> View:
    """Show one request with the lines of its charge; or why it was refused."""
    try:
        event = await get_event(visit.call)
        names = await visit.services.audit.names((event.key_id, event.user_id), visit.account_id)
        values = {"event": event, "refusal": None, "names": names, "with_cost": visit.call.sees_cost}
        return View("request.html", {**values, **OWN})
    except NotFound:
        refusal = await _refusal(visit)
        if refusal is None:
            raise
        names = await key_names(visit, (refusal.key_id,))
        return View("request.html", {"event": None, "refusal": refusal, "names": names, "with_cost": False, **OWN})


async def _refusal(visit: Visit) -> RefusedShape | None:
    """Return a refused request of the account, as long as it is kept."""
    try:
        found = await visit.services.refused.find(visit.call.id("event_id"))
    except StoreError:
        return None
    return (
        None
        if found is None or found.account_id != visit.account_id
        else RefusedShape.of_refused(found, with_hint=False)
    )


async def models(visit: Visit) -> View:
    """Show the models that the account's plan has, with the prices that it pays."""
    plan = None if visit.account is None else visit.services.plans.get(visit.account.plan)
    found = [each for each in visit.services.models(plan) if plan is None or names_model(plan.models, each.id)]
    return View("models.html", {"models": found, "plan": None if plan is None else plan.name})


async def quickstart(visit: Visit) -> View:
    """Show how the first request is made, and the last ones."""
    events = cast("Listing[EventShape]", await list_events(visit.call, EventQuery(limit=FEW)))
    names = await key_names(visit, (each.key_id for each in events.data)) if visit.may(KEYS_READ) else {}
    values = {
        "names": names,
        "events": events,
        "known_models": models_of(visit),
        "your_key": YOUR_KEY,
        **examples(visit),
    }
    return View("quickstart.html", values)


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/requests", requests, scope=BILLING_READ, csv=True),
    Page("GET", "/requests/refused", refused, scope=BILLING_READ),
    Page("GET", "/requests/{event_id}", request, scope=BILLING_READ),
    Page("GET", "/models", models),
    Page("GET", "/quickstart", quickstart, scope=BILLING_READ),
)
