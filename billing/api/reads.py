"""/api/account and /api/billing/usage: what a customer reads of its own account, by an API key with `billing:read`.

This file owns the rule that a caller sees its own account only: every read is given the account of the caller's key.
"""

from typing import Final

from billing.api.auth import BILLING_READ
from billing.api.errors import NotFound
from billing.api.requests import listing, moment, page_asked
from billing.api.route import Access, Call, Route
from billing.effects import LiveBalance
from billing.ledger.explanations import explain
from billing.ledger.reports import EventFilter
from billing.shapes.base import Listing, PageQuery
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

EVENTS: Final = "/api/account/usage/events"


async def get_balance(call: Call) -> BalanceShape:
    """Return the account's balance, live; as the ledger has it where Redis does not know."""
    services, principal = call.services, call.principal
    live = await services.effects.live_balance(principal.account_id)
    if live is None:
        live = LiveBalance((await services.accounts.get(principal.account_id)).balance_nano, held_nano=0)
    return balance_shape(principal, live, services.credits_per_usd)


async def list_transactions(call: Call, query: PageQuery) -> Listing[TransactionShape]:
    """List every change of the balance, newest first."""
    page = await call.services.reports.transactions(call.principal.account_id, *page_asked(query))
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
    page = await call.services.reports.usage_events(call.principal.account_id, limit, after, only)
    return listing(page, event_shape)


async def get_event(call: Call) -> ExplainedEventShape:
    """Return one metered request with the lines of its charge; another account's is not found."""
    event_id = call.id("event_id")
    found = await call.services.reports.priced_event(event_id, call.principal.account_id)
    if found is None:
        raise NotFound(f"There is no usage event {event_id!r}.")
    return explanation_shape(explain(*found))


async def get_totals(call: Call, query: TotalsQuery) -> TotalsShape:
    """Return totals of the account, of one key or of one user's keys."""
    found = await call.services.reports.usage_totals(
        call.principal.account_id, key_id=query.key_id, user_id=query.user_id
    )
    return totals_shape(found)


def _read(path: str, handler: object, answer: object, query: object = None) -> Route:
    return Route("GET", path, handler, Access.key, answer, query, scope=BILLING_READ)  # type: ignore[arg-type]


ROUTES: Final = (
    _read("/api/account/balance", get_balance, BalanceShape),
    _read("/api/account/transactions", list_transactions, Listing[TransactionShape], PageQuery),
    _read(EVENTS, list_events, Listing[EventShape], EventQuery),
    _read(f"{EVENTS}/{{event_id}}", get_event, ExplainedEventShape),
    _read("/api/billing/usage", get_totals, TotalsShape, TotalsQuery),
)
