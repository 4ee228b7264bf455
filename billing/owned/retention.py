"""Rows of objects and of jobs are deleted once they are old: in small batches, by one process of all.

This file owns that no row goes before its time. An object whose row is gone is nobody's, though its provider may still
have it. A job is deleted after it was done alone; what it came to stays in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from billing.database.connection import Database, DatabaseError, queries

logger = logging.getLogger(__name__)

_sql = queries("billing.owned")
FORGET_OBJECTS: Final = _sql("forget_objects")
FORGET_JOBS: Final = _sql("forget_jobs")
TAKE_LEASE: Final = queries("billing.ledger")("jobs_take")
NAME: Final = "retention"
EVERY_S: Final = 3600.0
BATCH_ROWS: Final = 1_000
MOST_BATCHES: Final = 1_000
"""In one round, of each table."""


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """After how many days rows go."""

    object_days: int
    job_days: int


class Retention:
    """Deletes old rows. `owner` names this process."""

    def __init__(self, database: Database, rules: RetentionRules, owner: str) -> None:
        self._database = database
        self._rules = rules
        self._owner = owner

    async def run(self) -> None:
        """Remove what is old, again and again, where no other process has done so in this round."""
        while True:
            try:
                if await self._database.row(TAKE_LEASE, NAME, self._owner, EVERY_S * 0.9) is not None:
                    await self.forget()
            except DatabaseError as error:
                logger.info("old objects and jobs are not deleted now: %s", error)
            await asyncio.sleep(EVERY_S)

    async def forget(self, batch_rows: int = BATCH_ROWS) -> int:
        """Remove what is old, so many rows at once; return how many there were. Raises `DatabaseError`."""
        forgotten = 0
        for statement, days in ((FORGET_OBJECTS, self._rules.object_days), (FORGET_JOBS, self._rules.job_days)):
            for _ in range(MOST_BATCHES):
                rows = await self._database.value(statement, days, batch_rows)
                forgotten += rows
                if rows < batch_rows:
                    break
        return forgotten
