"""Reads what was used: the one function that makes every report of sums, however it is shown.

Sums are kept by minute, hour, day and month of UTC, in every combination of dimensions that occurs
(`sql/roll_usage.sql`). A span of time between two bounds is put together from as few of them as can be: each bound is
reached from the nearest month, day or hour that is whole, forwards or backwards. So a local day in New York is a day of
UTC, without four hours of its beginning and with four hours of the next one. What is fresh is added from the same
snapshot. All is integers, so that spans add up to the span of them all, and groups to the total.

Busy accounts have many combinations, and their hours that are over are folded into sums by one dimension, by one tag,
and by a tag together with a dimension (`roller.Folds`). What is asked by no more is read from these up to
the moment until when they are made, and from the combinations after it.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from billing.database.connection import Connection, Database, Row, queries
from billing.ledger.used import (
    DIMENSIONS,
    HOUR,
    NOTHING,
    OTHERS,
    TAG_NAMES,
    Group,
    Grouping,
    Span,
    UsageQueryError,
    Used,
    UsedBy,
    begins,
    compose,
)

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
_query = queries("billing.ledger")


class UsageSums:
    """Reads what was used. Methods raise `UsageQueryError` and `database.connection.DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self.database = database

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
