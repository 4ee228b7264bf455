"""What customers read of their account: balance, transactions, usage events; and what was used, in sums: totals, a
summary, buckets of time, the month so far.

They take an API key or a token with `billing:read`. This file owns the rule that a caller sees its own account only:
every read is given `Call.account_id`. A list and its table as CSV are the same pages of the same query. Sums come from
`UsageReports.spans`, of buckets by `read_part`, and every field of them from
`schemas.usage.used_fields`, for JSON and CSV alike. Times are whole minutes; a day in a query is the local one of the
time zone.

Reports are of requests, from the ledger's sums, and of bytes of traffic that exporters count. Money is the ledger's:
charges are of all traffic of an account, so that by node, inbound tag or direction a charge is split by bytes, to the
nano-USD, and groups add up to the total.

Buckets are read in parts, for JSON, CSV and pages alike. A part has whole buckets, with a bounded number of groups
together, so that neither an answer nor the event loop is held by an account with many groups; a table and a page read
one part after the other. A bucket that alone has more groups is given in several parts, each of which has its times and
its sums, and the next of its groups.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import chain, islice, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from billing.api.operations import ReportOperations, UsageOperations
from billing.api.remaining import balance_of
from billing.api.requests import BadRequest, NotFound, encode_cursor, listing, moment, page_asked, zone
from billing.api.route import Call, Table, rows, serves, wants_csv
from billing.budgets import BudgetPeriod, forecast, spent_within, times_of
from billing.collect.debits import ENDPOINT, KEY
from billing.collect.facts import TRAFFIC_NAMES, read_traffic
from billing.collect.snapshots import METER
from billing.ledger.explanations import explain
from billing.ledger.reports import EventFilter
from billing.ledger.sums import (
    BEGINNING,
    DIMENSIONS,
    END,
    MOST_GROUPED,
    NOTHING,
    TAG,
    Group,
    Grouping,
    Span,
    UsageQueryError,
    Used,
    UsedBy,
    together,
    total,
)
from billing.pages import BadCursor, Page, place_of
from billing.pricing import METER_PROVIDER
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
    TransactionsQuery,
    UsedShape,
    ordered,
    sums_of,
    used_fields,
)
from billing.times import DEFAULT_ZONE, Period, day_begins, period_of, periods, rfc3339, zone_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Iterable

    from billing.collect.facts import Counted
    from billing.ledger.sums import UsageSums
    from billing.schemas.base import Listing

OF_LEDGER: Final = Grouping(("provider", "model"))
# Debits of traffic have it.
REGION_TAG: Final = f"{TAG}region"
# The group that debits of traffic are in, by what requests are grouped by.
_OF_DEBITS: Final[Mapping[str, str | None]] = {
    "key": KEY,
    "user": None,
    "model": METER,
    "provider": METER_PROVIDER,
    "endpoint": ENDPOINT,
    "feature": METER,
}


class UsageReports:
    """Reads what was used, bytes included. Methods raise `UsageQueryError` and `database.connection.DatabaseError`."""

    def __init__(self, sums: UsageSums, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._sums, self._clock = sums, clock

    async def spans(
        self,
        account_id: str,
        bounds: Sequence[datetime],
        names: Sequence[str] = (),
        named: Sequence[str] | None = None,
    ) -> list[Span]:
        """Return what was used in each span between two bounds, as `UsageSums.spans`, with bytes; by names of requests
        or by those of traffic, which are all told apart."""
        of_traffic = [name for name in names if name in TRAFFIC_NAMES]
        if not of_traffic:
            spans = await self._sums.spans(account_id, bounds, _grouping(names), named=named)
            for each in await self._bytes(account_id, bounds):
                _add(spans[each.span], _of_debits(names, each.region), each.up + each.down)
            return spans
        if len(of_traffic) < len(names) or len(set(names)) < len(names) or len(names) > MOST_GROUPED:
            raise UsageQueryError(
                f"group_by takes at most {MOST_GROUPED} different names, of {', '.join(TRAFFIC_NAMES)} or of "
                f"{', '.join(DIMENSIONS)} and {TAG}NAME."
            )
        by_group: list[dict[Group, int]] = [{} for _ in bounds[1:]]
        for each in await self._bytes(account_id, bounds):
            for group, count in each.by(names).items():
                by_group[each.span][group] = by_group[each.span].get(group, 0) + count
        spans = await self._sums.spans(account_id, bounds, OF_LEDGER)
        return [_split(span, groups, names) for span, groups in zip(spans, by_group, strict=True)]

    async def most_groups(self, account_id: str, names: Sequence[str]) -> int:
        """Return how many groups one span has at most by names of requests; 0 by those of traffic: nobody knows."""
        if any(name in TRAFFIC_NAMES for name in names):
            return 0
        return await self._sums.most_groups(account_id, _grouping(names))

    async def _bytes(self, account_id: str, bounds: Sequence[datetime]) -> Sequence[Counted]:
        return await read_traffic(self._sums.database, account_id, bounds, self._clock())


def _grouping(names: Sequence[str]) -> Grouping:
    try:
        return Grouping(tuple(names))
    except UsageQueryError as error:
        raise UsageQueryError(f"{error} Traffic is grouped by {', '.join(TRAFFIC_NAMES)}.") from error


def _of_debits(names: Sequence[str], region: str) -> Group:
    """Return the group that debits of traffic in a region are in."""
    return tuple((region or None) if name == REGION_TAG else _OF_DEBITS.get(name) for name in names)


def _split(span: Span, groups: Mapping[Group, int], names: Sequence[str]) -> Span:
    """Return what was used by meter, where that is asked for, and what traffic cost by its bytes: each group the share
    that all groups up to it have, less that of those before it."""
    found: Span = {}
    of_traffic = Used()
    for (provider, model), used in span.items():
        is_meter = provider == METER_PROVIDER
        if is_meter and model == METER:
            of_traffic = used
            continue
        group = tuple(model if name == "meter" and is_meter else None for name in names)
        found[group] = found.get(group, Used()).plus(used)
    total, passed, given = sum(groups.values()), 0, Used()
    if total <= 0:
        group = tuple(METER if name == "meter" else None for name in names)
        return {**found, group: found.get(group, Used()).plus(of_traffic)} if any(of_traffic) else found
    for group, count in sorted(groups.items(), key=str):
        passed += count
        so_far = Used(*(number * passed // total for number in of_traffic))
        found[group] = found.get(group, Used()).plus(so_far).plus(given, -1).plus(Used(bytes=count))
        given = so_far
    return found


def _add(span: Span, group: Group, count: int) -> None:
    if count:
        span[group] = span.get(group, Used()).plus(Used(bytes=count))


# Groups of all buckets of one answer: some 45 ms of Postgres and of ours.
MOST_CELLS: Final = 2_000
# As many times more are read at once for a table or a page, which need all: fewer readings, each still short.
AT_ONCE: Final = 2
# Of one part, so that none reads too much.
MOST_BUCKETS: Final = {Period.minute: 480, Period.hour: 96, Period.day: 31, Period.week: 26, Period.month: 36}
# Where buckets have fewer groups than they may, as many times more are read at once as were before.
GROWTH: Final = 4


@dataclass(frozen=True, slots=True)
class Steps:
    """Which buckets: of a time, in steps of a period of a zone, grouped by names. Of the first one, `skip` groups were
    given before. With `named` only these values of the first name are told apart, as of `UsageSums.spans`."""

    account_id: str
    since: datetime
    until: datetime
    period: Period
    zone: ZoneInfo
    names: Sequence[str]
    skip: int = 0
    named: Sequence[str] | None = None

    def bounds(self, most: int) -> list[datetime]:
        """Return where at most so many of the buckets begin, and the last one of these ends."""
        bounds = [self.since]
        for at in periods(self.since, self.period, self.zone):
            if bounds[-1] >= self.until or len(bounds) > most:
                break
            bounds.append(min(at, self.until))
        return bounds


class Bucket(NamedTuple):
    """What was used from `start` on and before `end`, in all and by group, the dearest first."""

    start: datetime
    end: datetime
    used: Used
    groups: list[tuple[Group, Used]]


class Part(NamedTuple):
    """Some buckets, and where the next ones begin: the moment, and the groups of its bucket that were given. None: with
    these all are given."""

    buckets: list[Bucket]
    next_at: tuple[datetime, int] | None

    @property
    def cursor(self) -> str | None:
        """Return where the next ones begin, as a client is told."""
        if self.next_at is None:
            return None
        start, skip = self.next_at
        return encode_cursor(f"{int(start.timestamp())}.{skip}" if skip else str(int(start.timestamp())))


def place_in(after: str, since: datetime, until: datetime) -> tuple[datetime, int]:
    """Return what a cursor says of where a part begins. Raises `BadCursor`."""
    at, dot, skipped = after.partition(".")
    seconds, skip = place_of(at), place_of(skipped) if dot else 0
    if not (since.timestamp() <= seconds < until.timestamp()) or seconds % 60:
        raise BadCursor("This cursor is not from this list.")
    return datetime.fromtimestamp(seconds, UTC), skip


async def read_part(usage: UsageReports, steps: Steps, most: int, cells: int | None = None) -> Part:
    """Return the first buckets, at most so many, with at most `cells` groups (None: those of an answer). Raises
    `UsageQueryError` and `DatabaseError`."""
    cells = cells or MOST_CELLS
    bounds = steps.bounds(1 if steps.skip else min(most, MOST_BUCKETS[steps.period]))
    found = await _spans(usage, steps, bounds, cells)
    buckets = [Bucket(*times, total(span), ordered(span)) for times, span in zip(pairwise(bounds), found, strict=False)]
    if not buckets:
        return Part([], None)
    (start, end, used, groups), skipped = buckets[0], steps.skip + cells
    if len(groups) > cells or steps.skip:
        buckets = [Bucket(start, end, used, groups[steps.skip : skipped])]
        if len(groups) > skipped:
            return Part(buckets, (start, skipped))
    last = buckets[-1].end
    return Part(buckets, (last, 0) if last < steps.until else None)


async def read_parts(usage: UsageReports, steps: Steps) -> AsyncIterator[list[Bucket]]:
    """Yield all buckets, part by part. Raises as `read_part`."""
    place: tuple[datetime, int] | None = (steps.since, steps.skip)
    while place is not None:
        since, skip = place
        left = replace(steps, since=since, skip=skip)
        buckets, place = await read_part(usage, left, MOST_BUCKETS[steps.period], AT_ONCE * MOST_CELLS)
        yield buckets


async def _spans(usage: UsageReports, steps: Steps, bounds: Sequence[datetime], most: int) -> list[Span]:
    """Return the spans between the first bounds: all, or about as many as have so many groups; one at least."""
    groups = 0 if steps.named is None else len(steps.named) + 1
    if steps.names and (steps.named is None or steps.names[0] not in DIMENSIONS):  # values of a tag are all told apart
        groups = await usage.most_groups(steps.account_id, steps.names)
    found: list[Span] = []
    cells, more = 0, max(1, most // max(groups, 1))
    while more and len(found) < len(bounds) - 1:
        between = bounds[len(found) : len(found) + more + 1]
        for span in await usage.spans(steps.account_id, between, steps.names, steps.named):
            if found and cells + len(span) > most:
                return found
            found.append(span)
            cells += len(span)
        few = cells < most // 2
        more = min(GROWTH * len(found), (most - cells) * len(found) // max(cells, 1)) if few else 0
    return found


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
async def list_transactions(call: Call, query: TransactionsQuery) -> Listing[TransactionShape] | Table:
    """List every change of the balance, or those of a kind, newest first. As CSV all of them from the cursor on,
    without a limit."""
    limit, after = page_asked(query)
    reports, kinds = call.services.reports, None if query.kind in (None, "changes") else [query.kind]

    async def page(size: int, place: str | None) -> Page[TransactionShape]:
        if query.kind is None:
            found = await reports.transactions(call.account_id, size, place)
        else:
            found = await reports.changes(call.account_id, size, place, kinds)
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
        reports, now = call.services.reports, datetime.fromtimestamp(call.services.clock(), UTC)
        if query.order == "slowest":
            found = await reports.slowest_events(account_id, size, place, only, now)
        else:
            found = await reports.usage_events(account_id, size, place, only)
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
