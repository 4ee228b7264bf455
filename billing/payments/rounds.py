"""Rounds: work that is done again and again in one gateway of all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from billing.database.connection import Database, DatabaseError, queries

logger = logging.getLogger(__name__)

TAKE_LEASE: Final = queries("billing.ledger")("jobs_take")


@dataclass(frozen=True, slots=True)
class Rounds:
    """Does `work` every `every_s` seconds, under the lease `name`; `owner` names this process."""

    name: str
    every_s: float
    work: Callable[[], Awaitable[object]]
    database: Database
    owner: str

    async def run(self) -> None:
        """Go on for ever; a ledger that is away is waited for."""
        while True:
            try:
                if await self.database.row(TAKE_LEASE, self.name, self.owner, self.every_s * 0.9) is not None:
                    await self.work()
            except DatabaseError as error:
                logger.info("%s waits: %s", self.name, error)
            await asyncio.sleep(self.every_s)
