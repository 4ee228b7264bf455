"""Whether the ledger is the one that it was, and what its clock says.

This file owns how a ledger that was restored from a backup, or replaced, is told from the one that Redis was loaded
from: by what it says it is (`ledger_identity()`), and by its beats, which every gateway counts on each second and some
of which are noted in Redis: those of a ledger that was set back are fewer, however it was done.
"""

import asyncio
import logging
import time
from typing import Final

from billing.database.connection import Database, queries

logger = logging.getLogger(__name__)

BEAT: Final = queries("billing.ledger")("ledger_beat")


class LedgerWatch:
    """What the ledger last said of itself. `beat` is how far it has counted, 0 before it was looked at; `set_back`
    whether that was less than before, of the same ledger. `epochs` are those of its partitions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._identity: str | None = None
        self._clock_offset_ms = 0
        self._looking = asyncio.Lock()
        self.beat = 0
        self.set_back = False
        self.epochs: dict[int, int] = {}

    async def look(self) -> bool:
        """Count on; whether it is still the ledger of the last look. Raises `DatabaseError`."""
        async with self._looking:  # answers must come in the order of the beats
            row = await self._database.row(BEAT)
        assert row is not None  # noqa: S101  (the installation is one row, always)
        self._clock_offset_ms = row["now_ms"] - int(time.monotonic() * 1000)
        self.set_back = row["identity"] == self._identity and row["beat"] <= self.beat
        same = self._identity is None or (row["identity"] == self._identity and not self.set_back)
        if not same:
            logger.error(
                "the ledger is another one, or was set back: it was %s at %d, and is %s at %d",
                *(self._identity, self.beat, row["identity"], row["beat"]),
            )
        self._identity, self.beat = row["identity"], row["beat"]
        self.epochs = dict(zip(row["numbers"], row["epochs"], strict=True))
        return same

    def now_ms(self) -> int | None:
        """Postgres's time as this process reckons it, in Unix milliseconds; None before it was looked at."""
        return None if self._identity is None else int(time.monotonic() * 1000) + self._clock_offset_ms
