"""What was charged, less what the providers cost: exact, from the ledger's sums, by account, model, provider or day.

The sums are those of `used`, of all accounts at once. What can't be taken as it stands is shown apart, too: estimated
work, work whose cost no price row says, and holds that were given back. Refunds and adjustments are what their
transfers say, at the time when they were made; a request's own charge is never rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, NamedTuple

from ulid import ULID

from billing.database.connection import Database, queries
from billing.ledger.used import PLANNED_EACH_TIME, UsageQueryError, compose

MOST_GROUPS: Final = 50_000
PAID_FROM: Final = "sys:stripe"
"""Whose debits are what customers paid, as `accounts.grants.PURCHASES`."""
_DAY: Final = 2
_query = queries("billing.ledger")


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

    def plus(self, other: Work) -> Work:
        """Return both together."""
        return Work(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


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

    def plus(self, other: Margin) -> Margin:
        """Return both together."""
        return Margin(
            self.used.plus(other.used),
            self.estimated.plus(other.estimated),
            self.unpriced.plus(other.unpriced),
            self.voided.plus(other.voided),
            (self.returned_nano or 0) + (other.returned_nano or 0),
        )


@dataclass(frozen=True, slots=True)
class Margins:
    """The margins of groups, the highest charge first, and of all together."""

    groups: tuple[tuple[str, Margin], ...]
    total: Margin


class MarginReports:
    """Reads what many accounts were charged and have paid. Methods raise `DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, since: datetime, until: datetime, by: MarginBy) -> Margins:
        """Return margins of the requests that were admitted from one day of UTC on and before another. Raises
        `UsageQueryError` for too many groups."""
        (parts,) = compose((since, until))
        pieces = [(part.piece.granularity, part.piece.since, part.piece.until, part.sign) for part in parts]
        if by is MarginBy.day:
            pieces = [(_DAY, since, until, 1)]
        async with self._database.transaction(snapshot=True) as connection:
            await connection.execute(PLANNED_EACH_TIME)
            rows = await connection.fetch(
                _query("margin_read"),
                *([piece[place] for piece in pieces] for place in range(4)),
                *(by.value, since, until, MOST_GROUPS + 1),
            )
        found: dict[str | None, dict[str, Work]] = {}
        for row in rows:
            work = Work(row["requests"], int(row["cost_nano"]), int(row["charged_nano"]))
            found.setdefault(row["name"], {})[row["kind"]] = work
        if len(found) > MOST_GROUPS:
            raise UsageQueryError("These are too many groups for one answer: ask for less time.", "by")
        return _margins(found, by)

    async def spent_by_keys(self, keys: Sequence[tuple[str, str]], month: datetime) -> dict[str, int]:
        """Return what keys, given with their accounts, were charged in the month of UTC that begins then, in
        nano-USD."""
        asked = [key_id for key_id, _ in keys], [account_id for _, account_id in keys]
        rows = await self._database.rows(_query("keys_spent"), *asked, month)
        return {row["key_id"]: int(row["charged_nano"]) for row in rows}

    async def money_in(self, since: datetime, until: datetime) -> int:
        """Return what all customers paid within a time, less what was given back to them, in nano-USD."""
        oldest = str(ULID.from_datetime(since - timedelta(days=1)))
        row = await self._database.row(_query("reports_money_in"), PAID_FROM, since, until, oldest)
        return 0 if row is None else int(row["amount_nano"])


def _margins(found: dict[str | None, dict[str, Work]], by: MarginBy) -> Margins:
    total, groups = Margin(), []
    for name, kinds in found.items():
        returned = kinds.pop("returned", NOTHING).charged_nano
        margin = Margin(**kinds, returned_nano=returned)
        total = total.plus(margin)
        if name is not None:
            told = by in (MarginBy.account, MarginBy.day)
            groups.append((name, Margin(**kinds, returned_nano=returned if told else None)))
    if by is MarginBy.day:
        groups.sort()
    else:
        groups.sort(key=lambda item: (-item[1].used.charged_nano, -item[1].used.cost_nano, item[0]))
    return Margins(tuple(groups), total)
