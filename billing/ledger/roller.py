"""The roller: keeps sums of what was used, so that reports are cheap.

It moves rows from `usage_fresh`, where each debit adds one, into `usage_sums`, many at once. That changes no result:
readers add sums and fresh rows of one snapshot. It bounds fresh rows to those of about a minute.

Of accounts that have many sums of hours it folds hours that are over into sums by one dimension, one tag, and both
(`Folds`).
"""

import asyncio
import logging
import time
from collections import deque
from datetime import datetime, timedelta
from typing import Final

from billing.database.connection import Database, DatabaseError, Row, queries
from billing.ledger.sums import PLANNED_EACH_TIME, TAG_NAMES, TAG_VALUES
from billing.work import until_next_s

logger = logging.getLogger(__name__)

_query = queries("billing.ledger")
ROLL_USAGE: Final = _query("roll_usage")
# Must run first: takes the roller's lock before the snapshot of what is moved is taken.
TAKE_TURN: Final = "SELECT pg_try_advisory_xact_lock($1) AND set_config('enable_nestloop', 'off', true) = 'off'"
TAKE_LEASE: Final = _query("jobs_take")

LEASE: Final = "roll usage"
ROLL_INTERVAL_S: Final = 5.0
# With so many fresh rows those of the minute that still lasts are moved, too: adding up 50,000 takes some 25 ms.
MOST_FRESH: Final = 50_000
# Moved by one transaction: the more, the fewer times a rollup is raised, and the longer it takes.
ROLL_ROWS: Final = 20_000
FEWEST_ROWS: Final = 500
# Moved rows leave their space behind. Autovacuum comes once a minute at most, which is late where thousands of rows
# come each second.
VACUUM_ROWS: Final = 50_000

# The advisory lock of who moves or folds usage, until its transaction ends: "meterrol" as 64 bits.
LOCK_KEY: Final = 0x6D65746572726F6C
FOLD_EVERY_S: Final = 600.0
# How long an hour is left alone once it is over: most requests that were admitted in it have ended then. Those of
# others are added later, one by one.
FOLD_AFTER: Final = timedelta(minutes=10)
# Sums of hours in a day from which on an account is folded: fewer are read as they are.
FOLD_FIRST: Final = 400
# Sums of hours that are folded at once from then on: the more, the fewer times the sums of a day are raised.
FOLD_ROWS: Final = 1_000
# Sums of hours that one transaction folds, those of tags too, but for an hour that alone has more: half a second where
# requests have much in common, three where they have nothing.
FOLD_STEP: Final = 20_000
FOLD_STEPS: Final = 1_000
# Transactions before usage is moved again, and how long before the last of them begins.
FOLD_S: Final = 3.0
# Accounts whose sums are counted at once to find those that are due: less than two seconds.
FOLD_LOOKED_AT: Final = 10_000


async def roll(database: Database, rows: int = ROLL_ROWS, *, most_fresh: int = MOST_FRESH) -> int:
    """Move at most so many fresh rows, those of this minute only while there are `most_fresh` or more; 0 means all.

    Returns how many were moved: 0 while another roller is at work. Raises `DatabaseError`: all was moved then, or
    nothing.
    """
    async with database.transaction() as connection:
        if not await connection.fetchval(TAKE_TURN, LOCK_KEY):
            return 0
        moved: int = await connection.fetchval(ROLL_USAGE, rows, most_fresh, TAG_NAMES, TAG_VALUES)
    return moved


class Roller:
    """Moves what is fresh every `interval_s`, in the one gateway that holds the lease."""

    def __init__(self, database: Database, owner: str, *, interval_s: float = ROLL_INTERVAL_S) -> None:
        """`owner` names this gateway in the lease."""
        self._database = database
        self._owner = owner
        self._interval_s = interval_s
        self._rows = ROLL_ROWS
        self._since_vacuum = 0
        self._folds = Folds(database)

    async def run(self) -> None:
        """Move until the task is cancelled. A failure is logged, and fewer rows are tried at the next round."""
        task = asyncio.current_task()
        while task is None or not task.cancelling():  # also where the driver has swallowed the cancellation
            await asyncio.sleep(until_next_s(self._interval_s))
            try:
                await self.round()
            except DatabaseError as error:
                self._rows = max(FEWEST_ROWS, self._rows // 2)
                logger.info("usage stays fresh for now: %s", error)

    async def round(self) -> int:
        """Take the lease if it is free, move what is fresh, and return how much. Raises `DatabaseError`."""
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
        await self._folds.round()
        return moved


class Folds:
    """Folds hours that are over into sums by dimension, tag, and both, for accounts that have many sums of hours."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due: deque[Row] = deque()
        self._next = 0.0

    async def round(self) -> int:
        """Fold what is due, in `FOLD_STEPS` transactions at most, and return how many it took. Accounts are looked for
        once those found before are folded, and not recently. A failure is logged, and its account left for then."""
        began, taken = time.monotonic(), 0
        try:
            if not self._due and began >= self._next:
                self._next = began + FOLD_EVERY_S
                bounds = FOLD_FIRST, FOLD_AFTER, FOLD_LOOKED_AT, FOLD_ROWS
                self._due.extend(await self._database.rows(_query("fold_due"), *bounds))
            while self._due and taken < FOLD_STEPS and (not taken or time.monotonic() < began + FOLD_S):
                if await fold_step(self._database, *self._due[0]):
                    taken += 1
                else:
                    self._due.popleft()
        except DatabaseError as error:
            logger.info("usage by dimension and tag is not summed for now: %s", error)
            if self._due:
                self._due.popleft()
        return taken


async def fold_step(database: Database, account_id: str, ends: datetime) -> bool:
    """Fold the next hours of an account that are before `ends`; return whether there were any and nobody else is at
    it. Raises `DatabaseError`."""
    async with database.transaction() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY):
            return False
        await connection.execute(PLANNED_EACH_TIME)
        step = await connection.fetchrow(_query("fold_step"), account_id, ends, FOLD_STEP)
        if step is None:
            return False
        since, until = step
        await connection.execute(_query("fold_usage"), account_id, since, until, until == ends)
    return True
