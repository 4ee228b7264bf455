"""The roller: moves fresh usage into the rollups, in the background.

A debit appends a row to `usage_fresh` in its own transaction; moving many of them at once raises each rollup once for
all of its rows. Moving never changes what was used, because whoever reads it adds rollups and fresh rows of one
snapshot, so it does not matter when a row is moved, how often a move is broken off, or how many want to. What it bounds
is how many fresh rows a reader has to add up: those of about a minute, and at most about `MOST_FRESH`.
"""

import asyncio
import logging
from typing import Final

from billing.database.connection import Database, DatabaseError, queries

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
ROLL_USAGE: Final = _sql("roll_usage")
TAKE_LEASE: Final = _sql("jobs_take")

LOCK_KEY: Final = 0x6D65746572726F6C
"""The advisory lock of a move, until its transaction ends: "meterrol" as 64 bits."""
LEASE: Final = "roll usage"
ROLL_INTERVAL_S: Final = 5.0
MOST_FRESH: Final = 50_000
"""With so many fresh rows those of the minute that still lasts are moved, too: adding up 50,000 takes some 25 ms."""
ROLL_ROWS: Final = 20_000
"""Moved by one transaction: the more, the fewer times a rollup is raised, and the longer it takes."""
FEWEST_ROWS: Final = 500
VACUUM_ROWS: Final = 50_000
"""Moved rows leave their space behind. Autovacuum comes once a minute at most, which is late where thousands of rows
come each second."""


async def roll(database: Database, rows: int = ROLL_ROWS, *, most_fresh: int = MOST_FRESH) -> int:
    """Move at most so many fresh rows, those of this minute only while there are `most_fresh` or more; 0 means all.

    How many were moved, none while another roller is at it. Raises `DatabaseError`: all was moved then, or nothing.
    """
    moved: int = await database.value(ROLL_USAGE, rows, most_fresh, LOCK_KEY)
    return moved


class Roller:
    """Moves what is fresh every `interval_s`, in one gateway of all: whoever takes the lease for that time."""

    def __init__(self, database: Database, owner: str, *, interval_s: float = ROLL_INTERVAL_S) -> None:
        """`owner` names this gateway in the lease."""
        self._database = database
        self._owner = owner
        self._interval_s = interval_s
        self._rows = ROLL_ROWS
        self._since_vacuum = 0

    async def run(self) -> None:
        """Move until the task is cancelled. A failure is noted, and fewer rows are tried at the next turn."""
        task = asyncio.current_task()
        while task is None or not task.cancelling():  # also where the driver has swallowed it
            await asyncio.sleep(self._interval_s)
            try:
                await self.turn()
            except DatabaseError as error:
                self._rows = max(FEWEST_ROWS, self._rows // 2)
                logger.info("usage stays fresh for now: %s", error)

    async def turn(self) -> int:
        """Take the lease, if it can be had, and move what there is to move. How many rows; raises `DatabaseError`."""
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
        return moved
