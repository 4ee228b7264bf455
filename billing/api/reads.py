"""What is read: by customers of their own account, by operators of all requests; and which image runs.

`/api/account` and `/api/billing/usage` take an API key or a token with `billing:read`. This file owns the rule that a
caller sees its own account only: every read is given the caller's account. `/api/admin/refusals` and
`/api/admin/providers` are the operator's, `/api/ping` is open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from billing.api.auth import BILLING_READ
from billing.api.errors import NotFound, Unavailable
from billing.api.requests import listing, moment, page_asked
from billing.api.route import Access, Call, Route
from billing.effects import LiveBalance
from billing.errors import StoreError
from billing.ledger.explanations import explain
from billing.ledger.reports import EventFilter
from billing.pages import Page
from billing.shapes.base import Listing, PageQuery
from billing.shapes.operation import ImageShape, ProviderShape, RefusedQuery, RefusedShape, refused_shape
from billing.shapes.usage import (
    BalanceShape,
    EventQuery,
    EventShape,
    ExplainedEventShape,
    TotalsQuery,
    TotalsShape,
    TransactionShape,
    balance_shape,
    event_shape,
    explanation_shape,
    totals_shape,
    transaction_shape,
)

if TYPE_CHECKING:
    from billing.api.services import Services

EVENTS: Final = "/api/account/usage/events"
REFUSALS: Final = "/api/admin/refusals"
PROVIDERS: Final = "/api/admin/providers"
_IMAGE: Final = re.compile(
    r"(?P<name>[^\s:@]+(?::\d+(?=/)[^\s:@]*)?):(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_COMMIT: Final = re.compile(r"sha-([0-9a-f]{40})")


async def get_balance(call: Call) -> BalanceShape:
    """Return the account's balance, live; as the ledger has it where Redis does not know."""
    return await balance_of(call.services, call.account_id)


async def balance_of(services: Services, account_id: str) -> BalanceShape:
    """Return the balance of an account. Raises `AccountNotFound`."""
    account = await services.accounts.get(account_id)
    live = await services.effects.live_balance(account.id) or LiveBalance(account.balance_nano, held_nano=0)
    return balance_shape(account, live, services.credits_per_usd)


async def list_transactions(call: Call, query: PageQuery) -> Listing[TransactionShape]:
    """List every change of the balance, newest first."""
    page = await call.services.reports.transactions(call.account_id, *page_asked(query))
    return listing(page, transaction_shape)


async def list_events(call: Call, query: EventQuery) -> Listing[EventShape]:
    """List metered requests, newest first."""
    limit, after = page_asked(query)
    only = EventFilter(
        since=moment("since", query.since),
        until=moment("until", query.until),
        key_id=query.key_id,
        model=query.model,
    )
    page = await call.services.reports.usage_events(call.account_id, limit, after, only)
    return listing(page, event_shape)


async def get_event(call: Call) -> ExplainedEventShape:
    """Return one metered request with the lines of its charge; another account's is not found."""
    event_id = call.id("event_id")
    found = await call.services.reports.priced_event(event_id, call.account_id)
    if found is None:
        raise NotFound(f"There is no usage event {event_id!r}.")
    return explanation_shape(explain(*found))


async def get_totals(call: Call, query: TotalsQuery) -> TotalsShape:
    """Return totals of the account, of one key or of one user's keys."""
    found = await call.services.reports.usage_totals(call.account_id, key_id=query.key_id, user_id=query.user_id)
    return totals_shape(found)


def _read(path: str, handler: object, answer: object, query: object = None) -> Route:
    return Route("GET", path, handler, Access.caller, answer, query, scope=BILLING_READ)  # type: ignore[arg-type]


async def list_refusals(call: Call, query: RefusedQuery) -> Listing[RefusedShape]:
    """List the last requests that were refused, newest first, on one page."""
    with _redis_needed():
        found = await call.services.refused.newest(query.limit, key_id=query.key_id, account_id=query.account_id)
    return listing(Page(tuple(found), None), refused_shape)


async def get_refusal(call: Call) -> RefusedShape:
    """Return a refused request by its x-request-id, as long as it is kept."""
    request_id = call.id("request_id")
    with _redis_needed():
        found = await call.services.refused.find(request_id)
    if found is None:
        raise NotFound(f"No refusal of {request_id!r} is kept.")
    return refused_shape(found)


@contextmanager
def _redis_needed(what: str = "the refusals") -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise Unavailable(f"Redis, which has {what}, is temporarily unavailable; try again.") from error


async def list_providers(call: Call) -> Listing[ProviderShape]:
    """List the providers of the configuration, whether they are on, and the health of their base URLs and keys as the
    gateways have found it."""
    with _redis_needed("the health of providers"):
        found = await call.services.providers()
    return Listing(data=found, next_cursor=None)


async def ping(call: Call) -> ImageShape:
    """Return which image runs, from the variable IMAGE; what can't be read from it is empty."""
    return image_identity(call.services.image)


def image_identity(image: str) -> ImageShape:
    """Return what an image's name says: `registry/name:sha-<40 hex>` gives all four fields; another tag gives no commit
    and is the version itself; all are empty when the name is missing or malformed."""
    match = _IMAGE.fullmatch(image)
    if match is None:
        return ImageShape()
    tag = match["tag"]
    sha = _COMMIT.fullmatch(tag)
    commit = sha[1] if sha else ""
    return ImageShape(image=image, tag=tag, commit=commit, version=commit or tag)


ROUTES: Final = (
    _read("/api/account/balance", get_balance, BalanceShape),
    _read("/api/account/transactions", list_transactions, Listing[TransactionShape], PageQuery),
    _read(EVENTS, list_events, Listing[EventShape], EventQuery),
    _read(f"{EVENTS}/{{event_id}}", get_event, ExplainedEventShape),
    _read("/api/billing/usage", get_totals, TotalsShape, TotalsQuery),
    Route("GET", REFUSALS, list_refusals, Access.admin, Listing[RefusedShape], query=RefusedQuery),
    Route("GET", f"{REFUSALS}/{{request_id}}", get_refusal, Access.admin, RefusedShape),
    Route("GET", PROVIDERS, list_providers, Access.admin, Listing[ProviderShape]),
    Route("GET", "/api/ping", ping, Access.anyone, ImageShape),
)
