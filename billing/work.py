"""Periodic work: rounds that one loop makes again and again, in every gateway or, by a lease, in one of all.

A store that is away is waited for, longer after each failure. Whatever else a round raises ends the loop:
`billing.holds.upkeep.Loops` logs and counts it, shows it as trouble and begins the loop anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.database.connection import queries
from billing.errors import MetergateError, StoreError

if TYPE_CHECKING:
    from billing.database.connection import Database

logger = logging.getLogger(__name__)

# Longest wait after failures, where rounds are closer together.
MOST_BACKOFF_S: Final = 5.0
# Of the time between rounds, so that whoever has the lease does not wait for itself.
_LEASED_SHARE: Final = 0.9
TAKE_LEASE: Final = queries("billing.ledger")("jobs_take")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do a job in one gateway of all; `owner` names this process."""

    database: Database
    name: str
    owner: str

    async def take(self, seconds: float) -> bool:
        """Return whether this process has it for so long. Raises `DatabaseError`."""
        return await self.database.row(TAKE_LEASE, self.name, self.owner, seconds) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Periodic:
    """A round every `every_s` seconds, the first at once unless it is `delayed`; `woken` begins the next one early.
    `otherwise` is called where another gateway has the lease, and after failures; `close` at the end."""

    name: str
    every_s: float
    round: Callable[[], Awaitable[object]]
    lease: Lease | None = None
    delayed: bool = False
    woken: asyncio.Event | None = None
    otherwise: Callable[[], None] | None = None
    close: Callable[[], Awaitable[None]] | None = None
    expected: tuple[type[MetergateError], ...] = (StoreError,)

    async def run(self) -> None:
        """Make rounds for ever."""
        try:
            await self._run()
        finally:
            if self.close is not None:
                await self.close()

    async def _run(self) -> None:
        failures = 0
        if self.delayed:
            await asyncio.sleep(self.every_s)
        while True:
            if self.woken is not None:
                self.woken.clear()
            try:
                if self.lease is None or await self.lease.take(self.every_s * _LEASED_SHARE):
                    await self.round()
                elif self.otherwise is not None:
                    self.otherwise()
                failures = 0
                await self._pause()
            except self.expected as error:
                logger.info("%s waits: %s", self.name, error)
                if self.otherwise is not None:
                    self.otherwise()
                await asyncio.sleep(self._backoff_s(failures))
                failures += 1

    def _backoff_s(self, failures: int) -> float:
        """Return how long to wait after one more failure: up to twice as long each time, and never in step."""
        most_s = max(self.every_s, MOST_BACKOFF_S)
        return min(most_s, self.every_s * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0)  # noqa: S311

    async def _pause(self) -> None:
        if self.woken is None:
            await asyncio.sleep(self.every_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self.every_s):
                await self.woken.wait()
