"""What customers read of their account: balance, transactions, usage events; and what was used, in sums: totals, a
summary, buckets of time, the month so far.

They take an API key or a token with `billing:read`. This file owns the rule that a caller sees its own account only:
every read is given `Call.account_id`. A list and its table as CSV are the same pages of the same query. Sums come from
`UsageReports.spans`, of buckets by `usage_reports.read_part`, and every field of them from
`schemas.usage.used_fields`, for JSON and CSV alike. Times are whole minutes; a day in a query is the local one of the
time zone.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from billing.api.accounts import balance_of
from billing.api.errors import BadRequest, NotFound
from billing.api.operations import ReportOperations, UsageOperations
from billing.api.requests import encode_cursor, listing, moment, page_asked, zone
from billing.api.route import Call, serves
from billing.api.tables import Table, rows, wants_csv
from billing.api.usage_reports import Bucket, Steps, UsageReports, place_in, read_part, read_parts
from billing.budgets.budgets import BudgetPeriod, forecast, spent_within, times_of
from billing.ledger.explanations import explain
from billing.ledger.reports import EventFilter
from billing.ledger.sums import BEGINNING, END, NOTHING, Group, Span, Used, UsedBy, together, total
from billing.pages import Page, place_of
from billing.quotas import Metric, Quota, Window
from billing.schemas.usage import (
    OF_COST,
    AllEventsQuery,
    BalanceShape,
    BillingSummaryShape,
    BucketShape,
    BucketsQuery,
    BucketsShape,
    BudgetShape,
    EventQuery,
    EventShape,
    ExplainedEventShape,
    GroupShape,
    Month,
    SummaryQuery,
    SummaryShape,
    TotalsQuery,
    TotalsShape,
    TransactionShape,
    UsedShape,
    ordered,
    sums_of,
    used_fields,
)
from billing.times import DEFAULT_ZONE, Period, day_begins, period_of, periods, rfc3339, zone_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
    from zoneinfo import ZoneInfo

    from billing.schemas.base import Listing, PageQuery


T = TypeVar("T")

_FILTERS: Final = (
    "key_id",
    "user_id",
    "model",
    "provider",
    "endpoint",
    "status",
    "end_user",
    "session",
    "tool",
    "min_latency_ms",
)
# Of a table that is streamed: so many are made at once, and other requests have their turn in between.
ROWS_A_PART: Final = 200


@serves(UsageOperations.balance)
async def get_balance(call: Call) -> BalanceShape:
    """Return the account's balance, live; as the ledger has it where Redis does not know."""
    return await balance_of(call.services, call.account_id)


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
    return await _events(call, query, call.account_id, with_cost=call.sees_cost)


@serves(UsageOperations.all_usage_events)
async def list_all_events(call: Call, query: AllEventsQuery) -> Listing[EventShape] | Table:
    """List metered requests of all accounts, newest first, with what they cost. A page has fewer than its limit where
    few match, and others may follow. As CSV all of them from the cursor on, without a limit."""
    return await _events(call, query, query.account_id, with_cost=True)


async def _events(
    call: Call, query: EventQuery, account_id: str | None, *, with_cost: bool
) -> Listing[EventShape] | Table:
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
        found = await call.services.reports.usage_events(account_id, size, place, only)
        return Page(tuple(EventShape.of_event(each, with_cost=with_cost) for each in found.items), found.next_after)

    if wants_csv(call.request):
        return Table("usage-events", _pages(_columns(EventShape, () if with_cost else OF_COST), page, after))
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


LENGTHS: Final = {
    Period.minute: timedelta(minutes=1),
    Period.hour: timedelta(hours=1),
    Period.day: timedelta(days=1),
    Period.week: timedelta(days=7),
    Period.month: timedelta(days=30),
}
# How long before the end, in the middle of a bucket, the first one is, where it is not said.
BACK: Final = {
    Period.minute: timedelta(minutes=59.5),
    Period.hour: timedelta(hours=23.5),
    Period.day: timedelta(days=29.5),
    Period.week: timedelta(days=11.5 * 7),
    Period.month: timedelta(days=350),
}
# Buckets of one table: more are asked for in several.
MOST_IN_TABLE: Final = 50_000
# Of a table, made at once.
LINES_A_TURN: Final = 500
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@serves(ReportOperations.usage)
async def get_totals(call: Call, query: TotalsQuery) -> TotalsShape:
    """Return totals of the account, of one key or of one user's keys."""
    since, until = _time(query.since, query.until, zone_of(DEFAULT_ZONE))
    found = await call.services.reports.usage_totals(
        call.account_id, key_id=query.key_id, user_id=query.user_id, since=since, until=until
    )
    return TotalsShape.of_totals(found)


class Summary(NamedTuple):
    """What was used from `since` on and before `until`, by group."""

    since: datetime
    until: datetime
    zone: ZoneInfo
    names: tuple[str, ...]
    span: Span


async def read_summary(call: Call, query: SummaryQuery) -> Summary:
    """Return what was used in a time, by up to two groups."""
    in_zone, names = await _zone(call, query.tz), _names(query.group_by)
    since, until = _time(query.since, query.until, in_zone)
    (span,) = await _usage(call).spans(call.account_id, (since, until), names)
    return Summary(since, until, in_zone, names, span)


@serves(ReportOperations.usage_summary)
async def get_summary(call: Call, query: SummaryQuery) -> SummaryShape | Table:
    """Return what was used in a time, by up to two groups. As CSV all groups, without a limit."""
    limit, after = page_asked(query)
    first = place_of(after)
    since, until, in_zone, names, span = await read_summary(call, query)
    groups = ordered(span) if names else []
    if wants_csv(call.request):
        shown: list[tuple[Group, Used]] = groups if names else [((), total(span))]
        lines = ((*group, *used_fields(used, with_cost=call.sees_cost).values()) for group, used in shown)
        return Table("usage-summary", _lines([(*names, *sums_of(with_cost=call.sees_cost))], lines))
    return SummaryShape(
        since=None if since == BEGINNING else rfc3339(since),
        until=None if until == END else rfc3339(until),
        tz=in_zone.key,
        group_by=list(names),
        total=UsedShape.of_used(total(span), with_cost=call.sees_cost),
        data=[GroupShape.of_group(names, *item, with_cost=call.sees_cost) for item in groups[first : first + limit]],
        next_cursor=encode_cursor(str(first + limit)) if len(groups) > first + limit else None,
    )


@serves(ReportOperations.usage_buckets)
async def get_buckets(call: Call, query: BucketsQuery) -> BucketsShape | Table:
    """Return what was used in each minute, hour, day, week or month of a time, without gaps, the oldest first. The
    first and the last are cut where the time begins and ends. As CSV all from the cursor on, without a limit."""
    steps = await _steps(call, query)
    if wants_csv(call.request):
        if (steps.until - steps.since) / LENGTHS[steps.period] > MOST_IN_TABLE:
            raise BadRequest(f"A table has at most {MOST_IN_TABLE} buckets: ask for less time or longer ones.", "since")
        parts = read_parts(_usage(call), steps)
        return Table("usage-buckets", _bucket_lines(steps.names, parts, with_cost=call.sees_cost))
    part = await read_part(_usage(call), steps, query.limit)
    return BucketsShape(
        granularity=query.granularity,
        tz=steps.zone.key,
        group_by=list(steps.names),
        data=[BucketShape.of_bucket(each, steps.zone, steps.names, with_cost=call.sees_cost) for each in part.buckets],
        next_cursor=part.cursor,
    )


async def all_buckets(
    call: Call, query: BucketsQuery, named: Sequence[str] | None = None
) -> AsyncIterator[list[Bucket]]:
    """Yield all buckets that are asked for, part by part, for a page that draws them; `named` as of `Steps`."""
    async for buckets in read_parts(_usage(call), replace(await _steps(call, query), named=named)):
        yield buckets


async def _steps(call: Call, query: BucketsQuery) -> Steps:
    in_zone, period = await _zone(call, query.tz), Period[query.granularity]
    _, after = page_asked(query)
    now = datetime.fromtimestamp(call.services.clock(), UTC)
    until = _moment("until", query.until, in_zone) or next(periods(now, period, in_zone))
    back = max(until - BACK[period], BEGINNING)
    since = _moment("since", query.since, in_zone) or period_of(back, period, in_zone)
    _check_order(since, until)
    begins, skip = (since, 0) if after is None else place_in(after, since, until)
    return Steps(call.account_id, begins, until, period, in_zone, _names(query.group_by), skip)


@serves(ReportOperations.billing_summary)
async def get_billing_summary(call: Call) -> BillingSummaryShape:
    """Return the calendar month so far, in the account's time zone: what was spent, what is left of the included credit
    and of the account's own budget, and what will have been spent at its end if it goes on so."""
    services = call.services
    account = await services.accounts.get(call.account_id)
    in_zone = zone_of(account.tz or DEFAULT_ZONE)
    now = datetime.fromtimestamp(services.clock(), UTC)
    times = times_of(BudgetPeriod.month, in_zone, now)
    start, end = times.start, times.end
    spans = await _usage(call).spans(account.id, times.bounds, ("feature",))
    _, days_nano = spent_within(times, [total(span).charged_nano for span in spans])
    span = together(*spans[times.bounds.index(start) : times.bounds.index(end)])
    used = total(span)
    budgets = services.budgets
    by_kind = await services.reports.changed_by_kind(account.id, start, end)
    plan = services.plans.get(account.plan)
    month = Month(
        tz=in_zone.key,
        period_start=start,
        period_end=end,
        used=used,
        by_feature={str(group[0]): each.charged_nano for group, each in span.items()},
        by_kind={**by_kind, "usage": -used.charged_nano} if used.charged_nano else by_kind,
        included_nano=0 if plan is None else plan.included_credit_nano,
        included_left_nano=await services.lots.included_left_nano(account.id),
        forecast_nano=forecast(used.charged_nano, days_nano, times) or 0,
        budget=await _budget(call, account.quotas, now),
        budgets=await budgets.statuses(await budgets.of_account(account.id), in_zone),
    )
    live = await services.live_balance(account)
    return BillingSummaryShape.of_month(account, month, live, services.credits_per_usd, with_cost=call.sees_cost)


async def _budget(call: Call, quotas: Iterable[Quota], now: datetime) -> BudgetShape | None:
    """Return the tightest limit of cost in a month that the account has of its own, on every model; None without."""
    monthly = [each for each in quotas if (each.window, each.metric, each.model) == (Window.month, Metric.cost, None)]
    if not monthly:
        return None
    quota, utc = min(monthly, key=lambda each: each.limit), zone_of(DEFAULT_ZONE)
    bounds = period_of(now, Period.month, utc), next(periods(now, Period.month, utc))
    only = UsedBy(feature=quota.feature)
    (span,) = await call.services.reports.sums.spans(call.account_id, bounds, only=only)
    return BudgetShape.of_limit(quota.limit, total(span).charged_nano, bounds[1])


async def _zone(call: Call, given: str | None) -> ZoneInfo:
    if given is not None:
        return zone("tz", given)
    return zone_of((await call.services.accounts.get(call.account_id)).tz or DEFAULT_ZONE)


def _usage(call: Call) -> UsageReports:
    return UsageReports(call.services.reports.sums, call.services.clock)


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",")) if given else ()


def _time(since: str | None, until: str | None, in_zone: ZoneInfo) -> tuple[datetime, datetime]:
    begins = _moment("since", since, in_zone) or BEGINNING
    ends = _moment("until", until, in_zone) or END
    _check_order(begins, ends)
    return begins, ends


def _moment(param: str, given: str | None, in_zone: ZoneInfo) -> datetime | None:
    """Return a time as its whole minute; a day is where it begins in the zone."""
    at = moment(param, given)
    if at is None or given is None:
        return None
    if _DAY.fullmatch(given) and BEGINNING < at < END:
        at = day_begins(date.fromisoformat(given), in_zone)
    return min(max(at, BEGINNING), END).replace(second=0, microsecond=0)


def _check_order(since: datetime, until: datetime) -> None:
    if since > until:
        raise BadRequest("since must not be after until.", "since")


async def _lines(heads: Iterable[Iterable[object]], lines: Iterable[Iterable[object]]) -> AsyncIterator[bytes]:
    """Yield lines of a table, some at a time: other requests have their turn in between."""
    rest = chain(heads, lines)
    while some := tuple(islice(rest, LINES_A_TURN)):
        yield rows(some)
        await asyncio.sleep(0)


async def _bucket_lines(
    names: Sequence[str], parts: AsyncIterator[list[Bucket]], *, with_cost: bool
) -> AsyncIterator[bytes]:
    """Yield a line for each group of each bucket, and one where nothing was used."""
    nobody: Group = (None,) * len(names)
    head: list[Iterable[object]] = [("start", "end", *names, *sums_of(with_cost=with_cost))]
    async for buckets in parts:
        lines = (
            (*times, *group, *used_fields(used, with_cost=with_cost).values())
            for each in buckets
            for times in [(rfc3339(each.start), rfc3339(each.end))]
            for group, used in each.groups or [(nobody, NOTHING)]
        )
        async for some in _lines(head, lines):
            yield some
        head = []
