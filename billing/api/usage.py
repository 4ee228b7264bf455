"""What customers read of their account: balance, transactions and usage events.

They take an API key or a token with `billing:read`. This file owns the rule that a caller sees its own account only:
every read is given `Call.account_id`. A list and its table as CSV are the same pages of the same query.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from billing.api.errors import NotFound
from billing.api.operations import UsageOperations
from billing.api.requests import listing, moment, page_asked
from billing.api.route import Call, serves
from billing.api.tables import Table, rows, wants_csv
from billing.ledger.explanations import explain
from billing.ledger.reports import EventFilter
from billing.pages import Page
from billing.schemas.usage import OF_COST, BalanceShape, EventQuery, EventShape, ExplainedEventShape, TransactionShape

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from billing.api.services import Services
    from billing.schemas.base import Listing, PageQuery

T = TypeVar("T")

_FILTERS: Final = ("key_id", "user_id", "model", "provider", "endpoint", "status", "end_user", "session", "tool")
# Of a table that is streamed: so many are made at once, and other requests have their turn in between.
ROWS_A_PART: Final = 200


@serves(UsageOperations.balance)
async def get_balance(call: Call) -> BalanceShape:
    """Return the account's balance, live; as the ledger has it where Redis does not know."""
    return await balance_of(call.services, call.account_id)


async def balance_of(services: Services, account_id: str) -> BalanceShape:
    """Return the balance of an account. Raises `AccountNotFound`."""
    account = await services.accounts.get(account_id)
    live, expiry = await services.live_balance(account), await services.lots.next_expiry(account_id)
    return BalanceShape.of_account(account, live, services.credits_per_usd, expiry)


@serves(UsageOperations.transactions)
async def list_transactions(call: Call, query: PageQuery) -> Listing[TransactionShape] | Table:
    """List every change of the balance, newest first. As CSV all of them from the cursor on, without a limit."""
    limit, after = page_asked(query)

    async def page(size: int, place: str | None) -> Page[TransactionShape]:
        found = await call.services.reports.transactions(call.account_id, size, place)
        shapes = (TransactionShape.of_transaction(each, with_cost=call.sees_cost) for each in found.items)
        return Page(tuple(shapes), found.next_after)

    if wants_csv(call.request):
        return Table("transactions", _pages(_columns(TransactionShape), page, after))
    return listing(await page(limit, after), lambda shape: shape)


@serves(UsageOperations.usage_events)
async def list_events(call: Call, query: EventQuery) -> Listing[EventShape] | Table:
    """List metered requests, newest first. A page has fewer than its limit where few match, and others may follow. As
    CSV all of them from the cursor on, without a limit."""
    limit, after = page_asked(query)
    tag, is_pair, value = (query.tag or "").partition("=")
    as_given: dict[str, Any] = {name: getattr(query, name) for name in _FILTERS}
    only = EventFilter(
        since=moment("since", query.since),
        until=moment("until", query.until),
        estimated=None if query.estimated is None else query.estimated == "true",
        tag=tag or None,
        tag_value=value if is_pair else None,
        **as_given,
    )

    async def page(size: int, place: str | None) -> Page[EventShape]:
        found = await call.services.reports.usage_events(call.account_id, size, place, only)
        return Page(
            tuple(EventShape.of_event(each, with_cost=call.sees_cost) for each in found.items), found.next_after
        )

    if wants_csv(call.request):
        columns = _columns(EventShape, () if call.sees_cost else OF_COST)
        return Table("usage-events", _pages(columns, page, after))
    return listing(await page(limit, after), lambda shape: shape)


def _columns(shape: type[msgspec.Struct], hidden: Collection[str] = ()) -> list[str]:
    """Return the names of a shape's fields, but for those that are hidden."""
    return [each.name for each in msgspec.structs.fields(shape) if each.name not in hidden]


async def _pages(
    columns: Sequence[str], page: Callable[[int, str | None], Awaitable[Page[T]]], after: str | None
) -> AsyncIterator[bytes]:
    """Yield the names of columns, and then page by page those fields of the shapes as lines."""
    values = attrgetter(*columns)
    found = await page(ROWS_A_PART, after)
    yield rows([columns])
    while True:
        yield rows(map(values, found.items))
        if found.next_after is None:
            return
        found = await page(ROWS_A_PART, found.next_after)


@serves(UsageOperations.usage_event)
async def get_event(call: Call) -> ExplainedEventShape:
    """Return one metered request with the lines of its charge; another account's is not found."""
    event_id = call.id("event_id")
    found = await call.services.reports.priced_event(event_id, call.account_id)
    if found is None:
        raise NotFound(f"There is no usage event {event_id!r}.")
    return ExplainedEventShape.of_explanation(explain(*found), with_cost=call.sees_cost)
