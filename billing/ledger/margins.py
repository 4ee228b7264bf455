"""What was charged, less what the providers cost: exact, from the ledger's sums, by account, model, provider or day.

The sums are those of `used`, of all accounts at once. What can't be taken as it stands is shown apart, too: estimated
work, work whose cost no price row says, and holds that were given back. Refunds and adjustments are what their
transfers say, at the time when they were made; a request's own charge is never rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from billing.database.connection import Database, Row, queries
from billing.ledger.sums import PLANNED_EACH_TIME
from billing.ledger.used import DAY, MONTH, UsageQueryError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

# Groups of one answer that has all.
MOST_GROUPS: Final = 50_000
# Groups before a page.
MOST_BEFORE: Final = 2**31
_KINDS: Final = ("used", "estimated", "unpriced", "voided")
_query = queries("billing.ledger")


class _Piece(NamedTuple):
    """Days or months, as `level` says, from one on and before another, added or (`sign` -1) taken off."""

    level: int
    since: datetime
    until: datetime
    sign: int


class MarginBy(IntEnum):
    """What margins are grouped by, as `margin_read.sql` counts them."""

    account = 1
    model = 2
    provider = 3
    day = 4


class Work(NamedTuple):
    """The number of some requests, their cost at the providers, and their charge, in nano-USD."""

    requests: int = 0
    cost_nano: int = 0
    charged_nano: int = 0


NOTHING: Final = Work()


@dataclass(frozen=True, slots=True)
class Margin:
    """The margin of a group. `used` is all that was charged for, of it `estimated` is what counts are not the
    provider's, `unpriced` what no price row says the cost of; `voided` are holds that were given back, in none of
    these. `returned_nano` is what was refunded, less what was charged later; None where it is not told by this name."""

    used: Work = NOTHING
    estimated: Work = NOTHING
    unpriced: Work = NOTHING
    voided: Work = NOTHING
    returned_nano: int | None = 0

    @property
    def margin_nano(self) -> int:
        """Return the charge less the cost."""
        return self.used.charged_nano - self.used.cost_nano

    @property
    def net_nano(self) -> int:
        """Return the margin less what was given back."""
        return self.margin_nano - (self.returned_nano or 0)

    @property
    def hundredths_of_percent(self) -> int | None:
        """Return the margin in hundredths of a percent of what was charged, rounded down; None where nothing was."""
        charged_nano = self.used.charged_nano
        return self.margin_nano * 10_000 // charged_nano if charged_nano else None


@dataclass(frozen=True, slots=True)
class Margins:
    """The margins of groups, the highest charge first or days in their order, and of all together; `more` groups may
    follow."""

    groups: tuple[tuple[str, Margin], ...]
    total: Margin
    more: bool = False


class MarginReports:
    """Reads what many accounts were charged and have paid. Methods raise `DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(
        self, since: datetime, until: datetime, by: MarginBy, first: int = 0, limit: int | None = None
    ) -> Margins:
        """Return margins of the requests that were admitted from one day of UTC on and before another: `limit` groups
        after the `first` ones, or all. Raises `UsageQueryError` where all are too many."""
        async with self._database.transaction(snapshot=True) as connection:
            await connection.execute(PLANNED_EACH_TIME)
            pieces = _pieces(since, until, by, await connection.fetchval("SELECT now()"))
            most = MOST_GROUPS if limit is None else limit
            total, *groups = await connection.fetch(
                _query("margin_read"),
                *map(list, zip(*pieces, strict=True)),
                by.value,
                since,
                until,
                most + 1,
                min(first, MOST_BEFORE),
            )
        if limit is None and len(groups) > most:
            raise UsageQueryError("These are too many groups for one answer: ask for less time.", "by")
        told = by in (MarginBy.account, MarginBy.day)
        found = tuple((row["name"], _margin(row, told=told)) for row in groups[:most])
        return Margins(found, _margin(total, told=True), len(groups) > most)

    async def spent_by_keys(self, keys: Sequence[tuple[str, str]], month: datetime) -> dict[str, int]:
        """Return what keys, given with their accounts, were charged in the month of UTC that begins then, in
        nano-USD."""
        asked = [key_id for key_id, _ in keys], [account_id for _, account_id in keys]
        rows = await self._database.rows(_query("keys_spent"), *asked, month)
        spent = {row["key_id"]: int(row["charged_nano"]) for row in rows}
        return {key_id: spent.get(key_id, 0) for key_id, _ in keys}


def _pieces(since: datetime, until: datetime, by: MarginBy, now: datetime) -> list[_Piece]:
    """Return the sums that a time is put together from: whole months, with days that they lack or have too much, of
    those that are not to come the fewest."""
    ways = [[_Piece(DAY, since, until, 1)]]
    for first in (_month(since), _month(since, 1)) if by is not MarginBy.day else ():
        for end in (_month(until), _month(until, 1)):
            if first < end:
                days = [_between(first, since, -1), _between(until, end, -1)]
                ways.append([_Piece(MONTH, first, end, 1), *(piece for piece in days if piece.since < piece.until)])
    return min(
        ways, key=lambda way: sum(max(0, (min(each.until, now) - each.since).days) for each in way if each.level == DAY)
    )


def _month(at: datetime, ahead: int = 0) -> datetime:
    """Return when the month of a time begins, or the one `ahead` of it."""
    months = at.year * 12 + at.month - 1 + ahead
    return at.replace(year=months // 12, month=months % 12 + 1, day=1)


def _between(since: datetime, until: datetime, sign: int) -> _Piece:
    return _Piece(DAY, *((since, until, sign) if since < until else (until, since, -sign)))


def _margin(row: Row, *, told: bool) -> Margin:
    def work(kind: str) -> Work:
        return Work(*(int(row[name] or 0) for name in (kind, f"{kind}_cost", f"{kind}_charged")))

    used, estimated, unpriced, voided = map(work, _KINDS)
    return Margin(used, estimated, unpriced, voided, int(row["returned"] or 0) if told else None)
