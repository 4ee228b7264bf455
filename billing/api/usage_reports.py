"""Reports of what an account used, in spans and buckets of time: requests, from the ledger's sums, and bytes of traffic
that exporters count.

Money is the ledger's: charges are of all traffic of an account, so that by node, inbound tag or direction a charge is
split by bytes, to the nano-USD, and groups add up to the total.

Buckets are read in parts, for JSON, CSV and pages alike. A part has whole buckets, with a bounded number of groups
together, so that neither an answer nor the event loop is held by an account with many groups; a table and a page read
one part after the other. A bucket that alone has more groups is given in several parts, each of which has its times and
its sums, and the next of its groups.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo

from billing.api.requests import encode_cursor
from billing.collect.debits import ENDPOINT, KEY
from billing.collect.facts import TRAFFIC_NAMES, read_traffic
from billing.collect.snapshots import METER
from billing.ledger.sums import DIMENSIONS, MOST_GROUPED, TAG, Group, Grouping, Span, UsageQueryError, Used, total
from billing.pages import BadCursor, place_of
from billing.pricing import METER_PROVIDER
from billing.schemas.usage import ordered
from billing.times import Period, periods

if TYPE_CHECKING:
    from billing.collect.facts import Counted
    from billing.ledger.sums import UsageSums


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
        raise BadCursor("This cursor is not one that this list has given.")
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
