"""What waits in Postgres for background work: one small statement, twice a second, in place of one of each part's own.

Whoever makes work does it, or publishes it, at once. What is found here is what its maker could not do or publish, what
is due at a time, and what other gateways or the console have made. Parts read the answer: those whose work has no hurry
in rounds of their own, the others as soon as their event is set.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.database.connection import DatabaseError, from_row, queries
from billing.work import asked_to_end, until_next_s

if TYPE_CHECKING:
    from billing.database.connection import Database

logger = logging.getLogger(__name__)

# A change that its maker could not publish, and new plans, take effect within a second: they are found in half of it.
EVERY_S: Final = 0.5
# At least, between an answer that took long and the next question.
LEAST_S: Final = 0.05
PENDING: Final = queries("billing")("pending")
# How a queue of which nothing is due stands is read as often.
STANDING_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """Whether there is anything to do, by kind: changes of accounts, keys and balances to be published; notices and
    deliveries, and mails, that are to be sent now; events of payments that wait; background jobs that nobody polls;
    open holds of services. And the revision of the plans in force, None before the first."""

    changes: bool = True
    notices: bool = True
    mails: bool = True
    payment_events: bool = True
    jobs: bool = True
    service_holds: bool = True
    plans_revision: int | None = None


class Pending:
    """Reads what waits. `work` is as of the last reading, everything before the first; `changes` is set by a reading
    that finds changes to be published, `plans` by one that finds another revision of the plans."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.work = Work()
        self.changes, self.plans = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Read for ever. While Postgres is away the last reading stands."""
        while not asked_to_end():
            try:
                await self.refresh()
            except DatabaseError as error:
                logger.info("what waits in Postgres is not known for now: %s", error)
            await asyncio.sleep(until_next_s(EVERY_S, LEAST_S))

    async def refresh(self) -> None:
        """Read what waits now. Raises `DatabaseError`."""
        row = await self._database.row(PENDING)
        assert row is not None  # noqa: S101 - a statement of subqueries alone has one row
        before, self.work = self.work, from_row(Work, row)
        if self.work.changes:
            self.changes.set()
        if self.work.plans_revision != before.plans_revision:
            self.plans.set()


class Standing:
    """How a queue in Postgres stands: how many are `waiting`, how many were given up (`parked`), and how long the
    oldest has waited (`lag_s`), as of the last reading here. `statement` reads it."""

    def __init__(self, database: Database, statement: str) -> None:
        self._database, self._statement = database, statement
        self._read_again_s = 0.0
        self.forget()

    def forget(self) -> None:
        """Take nothing for waiting: another gateway knows."""
        self.waiting, self.parked, self.lag_s = 0, 0, 0.0

    async def refresh(self) -> None:
        """Read how it stands now. Raises `DatabaseError`."""
        row = await self._database.row(self._statement)
        assert row is not None  # noqa: S101 - a statement of subqueries alone has one row
        self.waiting, self.parked, self.lag_s = row["waiting"], row["parked"], row["lag_s"]
        self._read_again_s = asyncio.get_running_loop().time() + STANDING_EVERY_S

    async def due(self, found: bool) -> bool:
        """Return whether anything is due; where nothing was `found`, read how the queue stands from time to time.
        Raises `DatabaseError`."""
        if not found and asyncio.get_running_loop().time() >= self._read_again_s:
            await self.refresh()
        return found
