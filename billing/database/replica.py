"""Reads of reports from a replica of Postgres, as long as that is up to date.

How far it is behind is measured by position, not by its own clock: the primary's position in the write-ahead log is
noted each time, and the replica is as old as the latest of these that it has replayed. So an idle primary makes no lag,
and a replica that has lost its primary shows one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from billing.database.connection import Database, DatabaseError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from billing.database.connection import Connection

logger = logging.getLogger(__name__)

# How often `check` is to be called.
CHECK_EVERY_S: Final = 1.0
# Positions of the primary that a replica may still have to replay; with older ones it is too far behind anyway.
MOST_POSITIONS: Final = 3_600
_POSITION: Final = "SELECT (pg_current_wal_lsn() - '0/0')::bigint"
# NULL where the server is no replica.
_REPLAYED: Final = "SELECT (pg_last_wal_replay_lsn() - '0/0')::bigint WHERE pg_is_in_recovery()"


class _Position(NamedTuple):
    at_s: float
    bytes: int


class ReplicatedReads(Database):
    """A pool on the replica at `url`, and `primary` in its place while that is more than `most_lag_s` behind or can't
    be reached. Of a replica that ends, one read fails. For reads alone. `clock` is monotonic."""

    def __init__(
        self,
        url: str,
        primary: Database,
        *,
        size: int,
        most_lag_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(url, size=size, timeout_s=primary.timeout_s, lock_wait_s=primary.lock_wait_s)
        self._primary, self._most_lag_s, self._clock = primary, most_lag_s, clock
        self._positions: deque[_Position] = deque(maxlen=MOST_POSITIONS)
        self._as_of_s = clock() - most_lag_s  # not used before it was looked at
        self._was_used = False

    @property
    def lag_s(self) -> float:
        """Return how old what the replica has is at most."""
        return self._clock() - self._as_of_s

    @property
    def is_used(self) -> bool:
        """Return whether the replica is asked now."""
        return self.lag_s < self._most_lag_s

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection to the replica, or to the primary. Raises `DatabaseError`."""
        if not self.is_used:
            async with self._primary.connection() as connection:
                yield connection
            return
        try:
            async with super().connection() as connection:
                yield connection
        except DatabaseUnavailable:
            self._as_of_s = self._clock() - self._most_lag_s  # whoever reads next asks the primary
            raise

    async def close(self) -> None:
        """Close both pools."""
        await super().close()
        await self._primary.close()

    async def check(self) -> None:
        """Find out how far the replica is behind."""
        try:
            self._positions.append(_Position(self._clock(), await self._primary.value(_POSITION)))
            async with super().connection() as connection:
                replayed = await connection.fetchval(_REPLAYED)
        except DatabaseError as error:
            self._say(f"can't be asked: {error}")
            return
        if replayed is None:
            self._say("is no replica")
            return
        while self._positions and self._positions[0].bytes <= replayed:
            self._as_of_s = self._positions.popleft().at_s
        self._say(f"is {self.lag_s:.0f} s behind")

    def _say(self, why: str) -> None:
        """Log where reports are read, when that changes."""
        if self.is_used != self._was_used:
            self._was_used = self.is_used
            if self.is_used:
                logger.info("reports are read from the replica")
            else:
                logger.warning("reports are read from the primary: the replica %s", why)
