"""Debits on their way to Postgres: whose turn it is, the batches, and what follows where one is not written.

This file owns that a batch which fails is written again, with bounded back-off, and that neither an account nor a
debit keeps the others waiting. An account whose row somebody else has locked stands aside: its debits wait, those that
come later with them, and are tried again after a pause that grows. Those that are soon to be tried again are tried with
the first of them, so that many locked accounts hold the others up no oftener than a few do. A batch that fails though
Postgres is there, or by a fault of the program, is tried again by halves, until the debit that is not taken stands
alone; it goes behind the others.

`outbox` writes what Redis has settled, `ledger_way` what it has not confirmed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from billing.database.connection import Database, DatabaseError, DatabaseHindered
from billing.ledger.writer import Stored, write_free

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence, Set

    from billing.ledger.debits import Debit

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

FIRST_RETRY_S: Final = 0.1
MOST_RETRY_S: Final = 5.0
ALARM_EVERY_S: Final = 60.0
"""The log repeats no oftener that Postgres is there and takes no debits."""
NAMED: Final = 5
"""Accounts that such a line names."""
FIRST_PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 2.0
LASTING_PAUSE_S: Final = 1.0
"""An account that is left alone for longer has been locked several times in a row: not by somebody's commit."""
SOON_SHARE: Final = 0.5
"""Of its pause: an account is tried with others when no more than that is left of it."""


@dataclass(slots=True)
class _Aside(Generic[Item]):
    """An account's debits, and when they are to be tried again, by the queue's clock."""

    items: list[Item]
    pause_s: float
    due_s: float


class DebitQueue(Generic[Item]):
    """`account_of` names an item's account; `clock` counts seconds monotonically. Bounded by what fills it."""

    def __init__(self, account_of: Callable[[Item], str], clock: Callable[[], float]) -> None:
        self._account_of = account_of
        self._clock = clock
        self.ready: list[Item] = []
        """In their order."""
        self._aside: dict[str, _Aside[Item]] = {}
        self._tried: dict[str, float] = {}
        """Accounts that stood aside and are being tried again, with the pause that they had."""

    def __len__(self) -> int:
        return len(self.ready) + (sum(len(each.items) for each in self._aside.values()) if self._aside else 0)

    def __iter__(self) -> Iterator[Item]:
        yield from self.ready
        for aside in self._aside.values():
            yield from aside.items

    @property
    def locked(self) -> Set[str]:
        """Return accounts whose debits stand aside, or are being tried again."""
        return self._aside.keys() | self._tried.keys()

    @property
    def lasting(self) -> frozenset[str]:
        """Return those of them that have been locked for a while."""
        asides = {account_id for account_id, each in self._aside.items() if each.pause_s > LASTING_PAUSE_S}
        return frozenset(asides.union(name for name, pause_s in self._tried.items() if pause_s > LASTING_PAUSE_S))

    @property
    def due_s(self) -> float | None:
        """Return when the first that stand aside are to be tried again, by the clock; None where there are none."""
        return min(each.due_s for each in self._aside.values()) if self._aside else None

    def count_aside(self, account_id: str) -> int:
        """Count the items of an account that stand aside."""
        aside = self._aside.get(account_id) if self._aside else None
        return 0 if aside is None else len(aside.items)

    def add(self, item: Item) -> bool:
        """Take an item. Return False where it stands aside with others of its account."""
        if self._aside and (aside := self._aside.get(self._account_of(item))) is not None:
            aside.items.append(item)
            return False
        self.ready.append(item)
        return True

    def batch(self, most: int) -> list[Item]:
        """Return the first of those whose turn it is, with those that stood aside for long enough before them."""
        due_s = self.due_s
        if due_s is not None and self._clock() >= due_s:
            self._take_back(self._clock())
        return self.ready[:most]

    def _take_back(self, now_s: float) -> None:
        taken: list[Item] = []
        for account_id, aside in list(self._aside.items()):
            if aside.due_s <= now_s + aside.pause_s * SOON_SHARE:
                taken += self._aside.pop(account_id).items
                self._tried[account_id] = aside.pause_s
        self.ready[:0] = taken

    def done(self, batch: Sequence[Item], locked: Collection[str]) -> None:
        """Note that the last batch was written, but for the items of accounts whose rows are locked."""
        del self.ready[: len(batch)]
        if locked:
            self._stand_aside(batch, locked)
        if self._tried:
            for account_id in set(map(self._account_of, batch)):
                self._tried.pop(account_id, None)

    def put_behind(self) -> None:
        """Put the first one behind the others."""
        self.ready.append(self.ready.pop(0))

    def _stand_aside(self, batch: Sequence[Item], locked: Collection[str]) -> None:
        now_s = self._clock()
        for account_id in locked:
            before_s = self._tried.get(account_id)
            pause_s = FIRST_PAUSE_S if before_s is None else min(before_s * 2, MOST_PAUSE_S)
            self._aside[account_id] = _Aside([], pause_s, now_s + pause_s)
        later, self.ready = self.ready, []
        for item in batch:
            if self._account_of(item) in locked:
                self._aside[self._account_of(item)].items.append(item)
        for item in later:
            self.add(item)


class DebitWriter(ABC, Generic[Item]):
    """Writes the debits of items in batches of at most `batch_rows`. Subclasses fill `waiting`, and say in `_written`
    what follows. `account_of` names an item's account; `on_failure` is called with what failed by a fault of the
    program, before it is tried again."""

    def __init__(
        self,
        database: Database,
        account_of: Callable[[Item], str],
        on_failure: Callable[[Exception], None],
        *,
        batch_rows: int,
    ) -> None:
        self._database = database
        self._on_failure = on_failure
        self._account_of = account_of
        self._batch_rows = self._rows = batch_rows
        self._loop = asyncio.get_running_loop()
        self.waiting: DebitQueue[Item] = DebitQueue(account_of, self._loop.time)
        self._arrived = asyncio.Event()
        """Set while something may be ready."""
        self._writing = asyncio.Lock()
        self._retry_s = FIRST_RETRY_S
        self._alarmed_at = self._alarmed_locked_at = float("-inf")
        self.unavailable = False
        """Whether the last attempt failed."""
        self.hindered = False
        """Whether Postgres is there and takes no debits, so that somebody must look why."""

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def aside(self) -> Set[str]:
        """Return accounts whose debits wait because their rows are locked, if only for a moment."""
        return self.waiting.locked

    @abstractmethod
    def _debits(self, items: list[Item]) -> Sequence[Debit]:
        """Return the debits of these items, in their order."""

    @abstractmethod
    async def _written(self, items: list[Item], stored: dict[str, Stored]) -> None:
        """Act on each of these items, even where that fails for one: none is written again. `stored` are the rows that
        Postgres has of them, by request id: none of one that was set aside."""

    async def flush(self) -> None:
        """Write all that waits now, but for debits of accounts whose rows are locked: these wait on.

        Raises `DatabaseError`, and what else writing raises; what was not written still waits then.
        """
        async with self._writing:
            waiting = self.waiting
            left = len(waiting)
            while left > 0 and (batch := waiting.batch(self._rows)):
                try:
                    written = await write_free(self._database, self._debits(batch))
                except Exception as error:  # whatever it was is raised; a batch that can't be written makes way
                    if isinstance(error, DatabaseHindered) or not isinstance(error, DatabaseError):
                        self._make_way(batch)
                    raise
                self._rows = min(self._rows * 2, self._batch_rows)
                locked = written.locked
                waiting.done(batch, locked)
                left -= len(batch)
                await self._written([each for each in batch if self._account_of(each) not in locked], written.stored)
            if not waiting.ready:
                self._arrived.clear()
        self._alarm_locked()

    async def drain(self) -> None:
        """Write all that waits, locked accounts' too, however long that takes. Raises `DatabaseError`."""
        while len(self.waiting):
            await self._until_due()
            await self.flush()

    async def _until_due(self) -> None:
        """Wait for an item whose turn it is, or until those that stand aside are to be tried again."""
        if not self.waiting.ready:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self.waiting.due_s):
                    await self._arrived.wait()

    async def _flush_or_pause(self) -> None:
        """Flush; where that fails say so and pause, for longer each time."""
        try:
            await self.flush()
        except DatabaseError as error:
            self._alarm(error)
        except Exception as error:  # whatever it was: debits wait, and are tried again
            self._on_failure(error)
        else:
            self._retry_s, self.unavailable, self.hindered = FIRST_RETRY_S, False, False
            return
        await asyncio.sleep(self._retry_s)
        self._retry_s = min(self._retry_s * 2, MOST_RETRY_S)

    def _make_way(self, batch: Sequence[Item]) -> None:
        """Have the next attempt take half as many, and put one debit that fails alone behind the others: should the
        cause lie in it after all, it keeps nobody waiting. A cause that passes costs one statement an attempt, as
        before."""
        if len(batch) > 1:
            self._rows = (len(batch) + 1) // 2
        elif batch:
            self.waiting.put_behind()

    def _alarm(self, error: DatabaseError) -> None:
        """Log that debits wait: once an outage, and each ALARM_EVERY_S where Postgres itself is there."""
        hindered, now = isinstance(error, DatabaseHindered), time.monotonic()
        if hindered and now - self._alarmed_at >= ALARM_EVERY_S:
            logger.error("%d debits wait, for Postgres does not take them: %s", len(self.waiting), error)
            self._alarmed_at = now
        elif not hindered and not self.unavailable:
            logger.warning("%d debits wait for Postgres: %s", len(self.waiting), error)
        self.unavailable, self.hindered = True, hindered

    def _alarm_locked(self) -> None:
        """Log that debits wait for rows that somebody else has locked, each ALARM_EVERY_S."""
        locked, now = self.waiting.lasting, time.monotonic()
        if locked and now - self._alarmed_locked_at >= ALARM_EVERY_S:
            waiting = sum(map(self.waiting.count_aside, locked))
            logger.error(
                "%d debits wait, for the rows of %d accounts in Postgres are locked by another session: %s",
                *(waiting, len(locked), ", ".join(sorted(locked)[:NAMED])),
            )
            self._alarmed_locked_at = now
