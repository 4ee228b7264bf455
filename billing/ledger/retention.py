"""Retention: usage events of months that are old enough are dropped, a month at a time, by one gateway of all.

Transfers, rollups, sums and the audit log stay. A month goes in one transaction: nobody writes to it meanwhile,
its rollups and sums must be those of its events, and what the events of each account came to is kept, so that
`verify` can still prove the ledger. A month that differs stays, and is told. A debit of a dropped month is not made
twice: its transfer, whose id is the request's, is still there.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.database.connection import (
    Connection,
    Database,
    DatabaseLocked,
    as_lock_timeout,
    queries,
    translated,
)
from billing.ledger.verify import STATEMENT_TIMEOUT_S, first_difference
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

LEASE: Final = "usage retention"
# Usage may be reported for 35 days.
LEAST_MONTHS: Final = 2
EVERY_S: Final = 3600.0
DROP_TRIES: Final = 20
# Dropping waits for whoever reads usage events, and lets nobody else begin meanwhile: briefly, and again later.
DROP_EVERY_S: Final = 0.5
_sql = queries("billing.ledger")
_FRESH: Final = "SELECT EXISTS (SELECT FROM usage_fresh WHERE admitted_at >= $1 AND admitted_at < $2)"


@dataclass(frozen=True, slots=True)
class Month:
    """A partition of usage events, and the time of its events."""

    partition: str
    since: datetime
    until: datetime


class UsageRetention:
    """Drops months that began more than `months` before this one. `owner` names this process in the lease; `kept` is
    how many months stay because they could not be proved."""

    def __init__(self, database: Database, months: int, owner: str, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds: a month is old once it and Postgres both say so, so that no single clock that
        runs ahead drops anything."""
        if months < LEAST_MONTHS:
            raise ValueError(f"months must not be below {LEAST_MONTHS}")
        self._database = database
        self._months = months
        self._owner = owner
        self._clock = clock
        self.kept = 0

    def work(self) -> Periodic:
        """Return what drops what is old."""
        lease = Lease(self._database, LEASE, self._owner)
        return Periodic(name="usage_retention", every_s=EVERY_S, round=self.round, lease=lease)

    async def round(self) -> list[str]:
        """Drop every month that is old enough and proved, and return their partitions. Raises `DatabaseError`."""
        database = self._database.another(size=1, timeout_s=STATEMENT_TIMEOUT_S)
        dropped, kept = [], 0
        try:
            now = datetime.fromtimestamp(self._clock(), UTC)
            rows = await database.rows(_sql("retention_months"), self._months, now)
            for month in [Month(row["partition"], row["since"], row["until"]) for row in rows]:
                if await drop_month(database, month):
                    dropped.append(month.partition)
                else:
                    kept += 1
        finally:
            await database.close()
        self.kept = kept
        return dropped


async def drop_month(database: Database, month: Month) -> bool:
    """Drop the events of a month; False where they stay, because sums differ from them or are not made yet. Raises
    `DatabaseError`: nothing has changed then."""
    async with database.transaction() as connection:
        await connection.execute(f"LOCK TABLE {month.partition} IN SHARE MODE")
        if await connection.fetchval(_FRESH, month.since, month.until):
            return False
        difference = await first_difference(connection, month.since, month.until)
        if difference is not None:
            logger.error("%s is kept: %s", month.partition, difference)
            return False
        await connection.execute(_sql("retention_note"), month.since, month.until)
        await _drop(connection, month.partition, as_lock_timeout(database.lock_wait_s))
    logger.info("%s is dropped; its rollups and transfers stay", month.partition)
    return True


async def _drop(connection: Connection, partition: str, patience: str) -> None:
    await connection.execute("SELECT set_config('lock_timeout', $1, true)", patience)
    for tries in range(DROP_TRIES):
        try:
            with translated():
                async with connection.transaction():
                    await connection.execute(f"DROP TABLE {partition}")
            return
        except DatabaseLocked:
            if tries == DROP_TRIES - 1:
                raise
        await asyncio.sleep(DROP_EVERY_S)
