"""What was used, by whatever it is grouped: the one function that reads sums for every report, and the roller, which
keeps them so that reports are cheap.

Sums are kept by minute, hour, day and month of UTC, in every combination of dimensions that occurs
(`sql/roll_usage.sql`). A span of time between two bounds is put together from as few of them as can be: each bound is
reached from the nearest month, day or hour that is whole, forwards or backwards. So a local day in New York is a day of
UTC, without four hours of its beginning and with four hours of the next one. What is fresh is added from the same
snapshot. All is integers, so that spans add up to the span of them all, and groups to the total.

The roller moves rows from `usage_fresh`, where each debit adds one, into `usage_sums`, many at once. That changes no
result: readers add sums and fresh rows of one snapshot. It bounds fresh rows to those of about a minute.

Busy accounts have many combinations, and their hours that are over are folded into sums by one dimension, by one tag,
and by a tag together with a dimension (`Folds`). What is asked by no more is read from these up to the moment until
when they are made, and from the combinations after it.
"""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import add, sub
from typing import Any, Final, NamedTuple

from billing.database.connection import Connection, Database, DatabaseError, Row, queries
from billing.errors import MetergateError
from billing.work import until_next_s

_query = queries("billing.ledger")

# What usage is grouped by, beside tags, in the order in which `usage_read.sql` has their columns.
DIMENSIONS: Final = ("key", "user", "model", "provider", "endpoint", "feature")
# What a group by the values of a tag begins with: `tag:team`.
TAG: Final = "tag:"
# Stands for the values of a tag beyond the first `TAG_VALUES` of an account. A client's own value that is written so
# has one pair of parentheses more.
OTHERS: Final = "(others)"
# Names of tags that are summed for one account, the first ones: clients choose them.
TAG_NAMES: Final = 16
# Values of one of them that are summed each by itself; the others are summed together.
TAG_VALUES: Final = 1000
MOST_GROUPED: Final = 2
BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)
END: Final = datetime(2200, 1, 1, tzinfo=UTC)

# Of what sums are kept, all of UTC.
MINUTE, HOUR, DAY, MONTH = range(4)
_MONTHLY: Final = timedelta(days=28)
_DAILY: Final = timedelta(hours=23)
_HOURLY: Final = timedelta(hours=1)

# A value for each name that usage is grouped by: None where a request has none.
Group = tuple[str | None, ...]


class UsageQueryError(MetergateError):
    """Usage can't be reported so; `field` names what of the question is wrong."""

    kind, field = "invalid", "group_by"


@dataclass(frozen=True, slots=True)
class Grouping:
    """The names that usage is grouped by, in their order: of `DIMENSIONS`, and at most one of a tag."""

    names: tuple[str, ...] = ()
    _tag_at: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or len(self.names) > MOST_GROUPED:
            raise UsageQueryError(f"group_by takes at most {MOST_GROUPED} different names.")
        if len([name for name in self.names if name.startswith(TAG)]) > 1:
            raise UsageQueryError("group_by takes one tag: ask for the other one by itself.")
        for name in self.names:
            if name not in DIMENSIONS and not (name.startswith(TAG) and len(name) > len(TAG)):
                raise UsageQueryError(f"group_by takes {', '.join(DIMENSIONS)}, or {TAG}NAME for a tag, not {name!r}.")
        object.__setattr__(
            self, "_tag_at", next((at for at, name in enumerate(self.names) if name.startswith(TAG)), None)
        )

    @property
    def tag(self) -> str | None:
        """Return the name of the tag that usage is grouped by, None where it is by none."""
        return None if self._tag_at is None else self.names[self._tag_at].removeprefix(TAG)

    @property
    def columns(self) -> tuple[int | None, int | None]:
        """Return the places of the names that are no tag."""
        found = [DIMENSIONS.index(name) + 1 for name in self.names if name in DIMENSIONS]
        return (*found, None, None)[:2]  # type: ignore[return-value]

    def group(self, first: str | None, second: str | None, name: str | None) -> Group:
        """Return the group of values of the columns and of the tag, in the order of the names."""
        match self._tag_at:
            case None:
                return (first or None, second or None)[: len(self.names)]
            case 0:
                return (name, first or None)[: len(self.names)]
        return (first or None, name)


@dataclass(frozen=True, slots=True)
class UsedBy:
    """Whose usage of an account, and of what: None is all."""

    key_id: str | None = None
    user_id: str | None = None
    feature: str | None = None


class Used(NamedTuple):
    """What was used by some requests. `cost_nano` is the providers', `charged_nano` what was charged, `bytes` those of
    traffic, which these sums do not have (`billing.api.usage`)."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    charged_nano: int = 0
    bytes: int = 0

    @property
    def total_tokens(self) -> int:
        """Return input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def plus(self, other: "Used", sign: int = 1) -> "Used":
        """Return both together, or without the other where `sign` is -1."""
        return Used._make(map(add if sign > 0 else sub, self, other))


NOTHING: Final = Used()
# What was used in one span of time, by group; groups that used nothing are not there.
Span = dict[Group, Used]


def total(span: Span) -> Used:
    """Return what all groups of a span have used."""
    return Used(*map(sum, zip(NOTHING, *span.values(), strict=True)))


def together(*spans: Span) -> Span:
    """Return what groups have used in several spans of time."""
    found: Span = {}
    for span in spans:
        for group, used in span.items():
            found[group] = found.get(group, NOTHING).plus(used)
    return found


class Piece(NamedTuple):
    """Whole minutes, hours, days or months (0 to 3) of UTC, from one on and before another."""

    granularity: int
    since: datetime
    until: datetime


class Part(NamedTuple):
    """A piece that a span has (`sign` 1) or has too much (-1)."""

    sign: int
    piece: Piece


def compose(bounds: Sequence[datetime]) -> list[list[Part]]:
    """Return the parts of each span between two bounds, which are whole minutes in rising order."""
    typical = (bounds[-1] - bounds[0]) / (len(bounds) - 1)
    level = MONTH if typical >= _MONTHLY else DAY if typical >= _DAILY else HOUR if typical >= _HOURLY else MINUTE
    anchors = [_nearest(bound, level) for bound in bounds]
    steps = [_steps(anchor, bound, level) for anchor, bound in zip(anchors, bounds, strict=True)]
    spans = []
    for index, (since, until) in enumerate(pairwise(anchors)):
        whole = [Part(1, Piece(level, since, until))] if since < until else []
        before = [Part(-part.sign, part.piece) for part in steps[index]]
        spans.append([*whole, *before, *steps[index + 1]])
    return spans


def _steps(anchor: datetime, bound: datetime, level: int) -> list[Part]:
    """Return what lies between a whole unit of a level and a bound, by ever smaller units."""
    parts = []
    for smaller in reversed(range(level)):
        at = _nearest(bound, smaller)
        if at != anchor:
            parts.append(Part(1, Piece(smaller, anchor, at)) if anchor < at else Part(-1, Piece(smaller, at, anchor)))
        anchor = at
    return parts


def _nearest(at: datetime, level: int) -> datetime:
    """Return the beginning of a minute, hour, day or month that is nearest, the earlier one of two."""
    if level == MINUTE:
        return at
    if level == HOUR:
        before = at.replace(minute=0)
        after = before + timedelta(hours=1)
    elif level == DAY:
        before = at.replace(hour=0, minute=0)
        after = before + timedelta(days=1)
    else:
        before = at.replace(day=1, hour=0, minute=0)
        after = (before + timedelta(days=32)).replace(day=1)
    return before if at - before <= after - at else after


def begins(at: datetime, level: int) -> datetime:
    """Return the first beginning of a day or month of UTC that is not before the beginning of an hour."""
    day = at.replace(hour=0)
    if day < at:
        day += timedelta(days=1)
    return day if level == DAY or day.day == 1 else (day.replace(day=1) + timedelta(days=32)).replace(day=1)


# For the rest of a transaction: to compile a statement, or to plan it for any number of pieces, costs more than it.
# Many rows are added into few groups, which the planner does not know: it would sort them first.
PLANNED_EACH_TIME: Final = (
    "SELECT set_config('jit', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true), "
    "set_config('work_mem', '32MB', true), set_config('enable_sort', 'off', true)"
)
MOST_ROWS: Final = 50_000
# Rows that are added up at once: other tasks have their turn in between.
ROWS_A_TURN: Final = 1_000
_LIKE_OTHERS: Final = re.compile(r"\(+others\)+")


@dataclass
class UsageSums:
    """Reads what was used. Methods raise `UsageQueryError` and `database.connection.DatabaseError`."""

    database: Database

    async def spans(
        self,
        account_id: str,
        bounds: Sequence[datetime],
        grouping: Grouping | None = None,
        only: UsedBy | None = None,
        named: Sequence[str] | None = None,
    ) -> list[Span]:
        """Return what was used in each span between two bounds, which are rising times of UTC with whole minutes: from
        one on and before the next. With `named` only these values of the first dimension that it is grouped by are told
        apart: all others are together in `OTHERS`."""
        if len(bounds) < 2:
            return []
        grouping, only = grouping or Grouping(), only or UsedBy()
        spans = compose(bounds)
        pieces = [_Read(*part.piece, place, part.sign) for place, parts in enumerate(spans, start=1) for part in parts]
        found: list[Span] = [{} for _ in spans]
        async with self.database.transaction(snapshot=True) as connection:
            await connection.execute(PLANNED_EACH_TIME)
            tag_id = await _tag_id(connection, account_id, grouping.tag)
            asked = _asked(grouping, only, named)
            folded, pieces = await _folded(connection, account_id, asked, tag_id, pieces)
            rows = await connection.fetch(
                _query("usage_read"),
                account_id,
                *_columns(pieces),
                list(bounds),
                *grouping.columns,
                only.key_id,
                only.user_id,
                only.feature,
                tag_id,
                grouping.tag,
                MOST_ROWS + 1,
                None if named is None else list(named),
                OTHERS,
            )
        if len(rows) + len(folded) > MOST_ROWS:
            raise UsageQueryError("These are too many groups for one answer: ask for less time, or for fewer groups.")
        await _add_rows(found, rows, grouping)
        await _add_rows(found, folded, grouping, None if asked is None else asked.all_but)
        return [{group: used for group, used in span.items() if any(used)} for span in found]

    async def most_groups(self, account_id: str, grouping: Grouping) -> int:
        """Return how many groups one span has at most, but for those that are new since the last minute."""
        row = _query("usage_groups"), account_id, *grouping.columns, grouping.tag
        return int(await self.database.value(*row) or 0)


class _Read(NamedTuple):
    """A piece as it is read: for which span, counted from 1, and with which sign."""

    granularity: int
    since: datetime
    until: datetime
    span: int
    sign: int


class _Asked(NamedTuple):
    """What is asked for beside a tag, as `usage_by_names` has it: a dimension (0: none), all values or some; and what
    all requests are called but for those of these values, where they are asked for, too."""

    dimension: int
    values: list[str] | None
    all_but: str | None


def _asked(grouping: Grouping, only: UsedBy, named: Sequence[str] | None) -> _Asked | None:
    """Return what is asked for where it is by one dimension at most; None where it is by more."""
    asked = {"key": only.key_id, "user": only.user_id, "feature": only.feature}
    filters = {name: value for name, value in asked.items() if value is not None}
    by_name = named is not None and grouping.columns[0] is not None
    dimensions = {*(name for name in grouping.names if name in DIMENSIONS), *filters}
    if len(dimensions) > 1 or (by_name and filters):
        return None
    dimension = next((DIMENSIONS.index(name) + 1 for name in dimensions), 0)
    if by_name:
        return _Asked(dimension, list(named or ()), OTHERS)
    return _Asked(dimension, list(filters.values()) or None, None)


def _columns(pieces: Sequence[_Read]) -> list[list[object]]:
    return [[piece[column] for piece in pieces] for column in range(len(_Read._fields))]


async def _folded(
    connection: Connection, account_id: str, asked: _Asked | None, tag_id: int, pieces: list[_Read]
) -> tuple[list[Row], list[_Read]]:
    """Return what is read of folded sums, and the pieces that are not: minutes, and hours that are not folded yet. A
    day or a month that is folded in part is summed so far."""
    until = None if asked is None else await connection.fetchval(_query("usage_folded"), account_id)
    if asked is None or until is None:
        return [], pieces
    rows = await connection.fetch(
        _query("usage_read_names"),
        account_id,
        *_columns([piece for piece in pieces if piece.granularity >= HOUR and piece.since < until]),
        [asked.dimension] if asked.all_but is None else [asked.dimension, 0],
        asked.values,
        tag_id,
        MOST_ROWS + 1,
    )
    return rows, [left for piece in pieces for left in _left(piece, until)]


def _left(piece: _Read, until: datetime) -> Iterator[_Read]:
    """Yield what of a piece is not folded until an hour: hours to the next day, then days to the next month, then
    months. So what is read stays little where hours could not be folded for long."""
    if piece.granularity < HOUR or piece.since >= until:
        yield piece
        return
    at = until
    for granularity in range(HOUR, piece.granularity + 1):
        ends = piece.until if granularity == piece.granularity else min(piece.until, begins(at, granularity + 1))
        if at < ends:
            yield piece._replace(granularity=granularity, since=at, until=ends)
        at = max(at, ends)


async def _tag_id(connection: Connection, account_id: str, tag: str | None) -> int:
    """Return the id of the tag that sums are kept by; 0 where no request has it yet, or none is asked for."""
    if tag is None:
        return 0
    rows = await connection.fetch(_query("usage_tag_names"), account_id)
    ids = {row["name"]: row["id"] for row in rows}
    if tag not in ids and len(ids) >= TAG_NAMES:
        kept = ", ".join(sorted(ids))
        raise UsageQueryError(f"Usage is summed by the first {TAG_NAMES} names of tags of an account: {kept}.")
    return int(ids.get(tag, 0))


async def _add_rows(found: list[Span], rows: Sequence[Any], grouping: Grouping, all_but: str | None = None) -> None:
    """Add rows to the spans that they are about. Stored sums of value 0 are of all requests: from the group without the
    tag those that have it are subtracted. With `all_but` so are stored sums without a first value: those that have one
    are subtracted from the group that is called so."""
    for at, row in enumerate(rows, start=1):
        if at % ROWS_A_TURN == 0:
            await asyncio.sleep(0)
        place, first, second, value, said, *numbers, cost_nano, charged_nano = row
        used, span = Used._make((*numbers, int(cost_nano), int(charged_nano), 0)), found[abs(place) - 1]
        named = first if all_but is None or first is not None else all_but
        apart = None if value == 0 else _value(said)
        of_tag = apart is not None and place > 0  # a fresh request has one row
        _add(span, grouping.group(named, second, apart), 1, used)
        if of_tag:
            _add(span, grouping.group(named, second, None), -1, used)
        if all_but is not None and first is not None:
            _add(span, grouping.group(all_but, second, apart), -1, used)
            if of_tag:
                _add(span, grouping.group(all_but, second, None), 1, used)


def _value(value: str | None) -> str:
    """Return how a tag's value is shown; None: one beyond those that are kept."""
    if value is None:
        return OTHERS
    return f"({value})" if _LIKE_OTHERS.fullmatch(value) else value


def _add(span: Span, group: Group, sign: int, used: Used) -> None:
    before = span.get(group)
    span[group] = used if before is None and sign > 0 else (before or NOTHING).plus(used, sign)


logger = logging.getLogger(__name__)

ROLL_USAGE: Final = _query("roll_usage")
# Must run first: takes the roller's lock before the snapshot of what is moved is taken.
TAKE_TURN: Final = "SELECT pg_try_advisory_xact_lock($1) AND set_config('enable_nestloop', 'off', true) = 'off'"
TAKE_LEASE: Final = _query("jobs_take")

LEASE: Final = "roll usage"
ROLL_INTERVAL_S: Final = 5.0
# With so many fresh rows those of the minute that still lasts are moved, too: adding up 50,000 takes some 25 ms.
MOST_FRESH: Final = 50_000
# Moved by one transaction: the more, the fewer times a rollup is raised, and the longer it takes.
ROLL_ROWS: Final = 20_000
FEWEST_ROWS: Final = 500
# Moved rows leave their space behind. Autovacuum comes once a minute at most, which is late where thousands of rows
# come each second.
VACUUM_ROWS: Final = 50_000

# The advisory lock of who moves or folds usage, until its transaction ends: "meterrol" as 64 bits.
LOCK_KEY: Final = 0x6D65746572726F6C
FOLD_EVERY_S: Final = 600.0
# How long an hour is left alone once it is over: most requests that were admitted in it have ended then. Those of
# others are added later, one by one.
FOLD_AFTER: Final = timedelta(minutes=10)
# Sums of hours in a day from which on an account is folded: fewer are read as they are.
FOLD_FIRST: Final = 400
# Sums of hours that are folded at once from then on: the more, the fewer times the sums of a day are raised.
FOLD_ROWS: Final = 1_000
# Sums of hours that one transaction folds, those of tags too, but for an hour that alone has more: half a second where
# requests have much in common, three where they have nothing.
FOLD_STEP: Final = 20_000
FOLD_STEPS: Final = 1_000
# Transactions before usage is moved again, and how long before the last of them begins.
FOLD_S: Final = 3.0
# Accounts whose sums are counted at once to find those that are due: less than two seconds.
FOLD_LOOKED_AT: Final = 10_000


async def roll(database: Database, rows: int = ROLL_ROWS, *, most_fresh: int = MOST_FRESH) -> int:
    """Move at most so many fresh rows, those of this minute only while there are `most_fresh` or more; 0 means all.

    Returns how many were moved: 0 while another roller is at work. Raises `DatabaseError`: all was moved then, or
    nothing.
    """
    async with database.transaction() as connection:
        if not await connection.fetchval(TAKE_TURN, LOCK_KEY):
            return 0
        moved: int = await connection.fetchval(ROLL_USAGE, rows, most_fresh, TAG_NAMES, TAG_VALUES)
    return moved


class Roller:
    """Moves what is fresh every `interval_s`, in the one gateway that holds the lease."""

    def __init__(self, database: Database, owner: str, *, interval_s: float = ROLL_INTERVAL_S) -> None:
        """`owner` names this gateway in the lease."""
        self._database = database
        self._owner = owner
        self._interval_s = interval_s
        self._rows = ROLL_ROWS
        self._since_vacuum = 0
        self._folds = Folds(database)

    async def run(self) -> None:
        """Move until the task is cancelled. A failure is logged, and fewer rows are tried at the next round."""
        task = asyncio.current_task()
        while task is None or not task.cancelling():  # also where the driver has swallowed the cancellation
            await asyncio.sleep(until_next_s(self._interval_s))
            try:
                await self.round()
            except DatabaseError as error:
                self._rows = max(FEWEST_ROWS, self._rows // 2)
                logger.info("usage stays fresh for now: %s", error)

    async def round(self) -> int:
        """Take the lease if it is free, move what is fresh, and return how much. Raises `DatabaseError`."""
        if await self._database.row(TAKE_LEASE, LEASE, self._owner, self._interval_s * 0.9) is None:
            return 0
        moved = 0
        while last := await roll(self._database, self._rows):
            moved += last
            self._since_vacuum += last
            self._rows = min(ROLL_ROWS, self._rows * 2)
            if self._since_vacuum >= VACUUM_ROWS:
                await self._database.execute("VACUUM usage_fresh")
                self._since_vacuum = 0
        await self._folds.round()
        return moved


class Folds:
    """Folds hours that are over into sums by dimension, tag, and both, for accounts that have many sums of hours."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due: deque[Row] = deque()
        self._next = 0.0

    async def round(self) -> int:
        """Fold what is due, in `FOLD_STEPS` transactions at most, and return how many it took. Accounts are looked for
        once those found before are folded, and not recently. A failure is logged, and its account left for then."""
        began, taken = time.monotonic(), 0
        try:
            if not self._due and began >= self._next:
                self._next = began + FOLD_EVERY_S
                bounds = FOLD_FIRST, FOLD_AFTER, FOLD_LOOKED_AT, FOLD_ROWS
                self._due.extend(await self._database.rows(_query("fold_due"), *bounds))
            while self._due and taken < FOLD_STEPS and (not taken or time.monotonic() < began + FOLD_S):
                if await fold_step(self._database, *self._due[0]):
                    taken += 1
                else:
                    self._due.popleft()
        except DatabaseError as error:
            logger.info("usage by dimension and tag is not summed for now: %s", error)
            if self._due:
                self._due.popleft()
        return taken


async def fold_step(database: Database, account_id: str, ends: datetime) -> bool:
    """Fold the next hours of an account that are before `ends`; return whether there were any and nobody else is at
    it. Raises `DatabaseError`."""
    async with database.transaction() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY):
            return False
        await connection.execute(PLANNED_EACH_TIME)
        step = await connection.fetchrow(_query("fold_step"), account_id, ends, FOLD_STEP)
        if step is None:
            return False
        since, until = step
        await connection.execute(_query("fold_usage"), account_id, since, until, until == ends)
    return True
