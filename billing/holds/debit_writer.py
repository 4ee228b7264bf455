"""Debits on their way to Postgres: their order, the batches, and what follows where one is not written.

A batch that fails is written again, with bounded back-off, and neither an account nor a debit delays the others. The
debits of an account whose row somebody else has locked wait by themselves, with those that come later, and are tried
again after a pause that grows. Accounts that are soon to be tried again are tried with the first of them, so that many
locked accounts delay the others no more often than a few do. A batch that fails though Postgres is there, or by a fault
of the program, is tried again by halves, until the debit that is not taken stands alone; it goes behind the others.

`outbox` writes what Redis has settled, `DirectLedgerWriter` what Redis did not confirm (rule R4).
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from billing.database.connection import Database, DatabaseError, DatabaseHindered
from billing.errors import StoreError
from billing.holds.model import Hold, Settled, Settlement
from billing.ledger.writer import Stored, write_batch

if TYPE_CHECKING:
    from billing.holds.batch import RunningHolds
    from billing.holds.epochs import Partition
    from billing.holds.loading import Corrections
    from billing.ledger.debits import Debit

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

FIRST_RETRY_S: Final = 0.1
MOST_RETRY_S: Final = 5.0
# Minimum interval between repeated "Postgres does not take debits" messages.
ALARM_EVERY_S: Final = 60.0
# Accounts that such a line names.
NAMED: Final = 5
FIRST_PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 2.0
# An account that is left alone for longer has been locked several times in a row: not by somebody's commit.
LASTING_PAUSE_S: Final = 1.0
# Of its pause: an account is tried with others when no more than that is left of it.
SOON_SHARE: Final = 0.5


@dataclass(slots=True)
class _Locked(Generic[Item]):
    """An account's debits, and when they are to be tried again, by the queue's clock."""

    items: list[Item]
    pause_s: float
    due_s: float


class DebitQueue(Generic[Item]):
    """`account_of` names an item's account; `clock` counts seconds monotonically. Bounded by what fills it."""

    def __init__(self, account_of: Callable[[Item], str], clock: Callable[[], float]) -> None:
        self._account_of = account_of
        self._clock = clock
        # In their order.
        self.ready: list[Item] = []
        self._locked: dict[str, _Locked[Item]] = {}
        # Accounts that were locked and are being tried again, with the pause that they had.
        self._tried: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self.ready) + (sum(len(each.items) for each in self._locked.values()) if self._locked else 0)

    def __iter__(self) -> Iterator[Item]:
        yield from self.ready
        for waiting in self._locked.values():
            yield from waiting.items

    @property
    def locked(self) -> Set[str]:
        """Return accounts whose rows were locked, and whose debits wait for their next try or are being tried."""
        return self._locked.keys() | self._tried.keys()

    @property
    def long_locked(self) -> frozenset[str]:
        """Return those of them that have been locked for a while."""
        found = {account_id for account_id, each in self._locked.items() if each.pause_s > LASTING_PAUSE_S}
        return frozenset(found.union(name for name, pause_s in self._tried.items() if pause_s > LASTING_PAUSE_S))

    @property
    def due_s(self) -> float | None:
        """Return when the first locked account is to be tried again, by the clock; None where there is none."""
        return min(each.due_s for each in self._locked.values()) if self._locked else None

    def count_locked(self, account_id: str) -> int:
        """Count the items of an account that wait because its row is locked."""
        waiting = self._locked.get(account_id) if self._locked else None
        return 0 if waiting is None else len(waiting.items)

    def add(self, item: Item) -> bool:
        """Take an item. Return False where it must wait because its account's row is locked."""
        if self._locked and (waiting := self._locked.get(self._account_of(item))) is not None:
            waiting.items.append(item)
            return False
        self.ready.append(item)
        return True

    def batch(self, most: int) -> list[Item]:
        """Return the next items; those of locked accounts come first, once they have waited for long enough."""
        due_s = self.due_s
        if due_s is not None and self._clock() >= due_s:
            self._retry_locked(self._clock())
        return self.ready[:most]

    def _retry_locked(self, now_s: float) -> None:
        taken: list[Item] = []
        for account_id, waiting in list(self._locked.items()):
            if waiting.due_s <= now_s + waiting.pause_s * SOON_SHARE:
                taken += self._locked.pop(account_id).items
                self._tried[account_id] = waiting.pause_s
        self.ready[:0] = taken

    def done(self, batch: Sequence[Item], locked: Collection[str]) -> None:
        """Remove the last batch, which was written but for the items of accounts whose rows are locked."""
        del self.ready[: len(batch)]
        if locked:
            self._set_locked(batch, locked)
        if self._tried:
            for account_id in set(map(self._account_of, batch)):
                self._tried.pop(account_id, None)

    def put_behind(self) -> None:
        """Put the first one behind the others."""
        self.ready.append(self.ready.pop(0))

    def _set_locked(self, batch: Sequence[Item], locked: Collection[str]) -> None:
        now_s = self._clock()
        for account_id in locked:
            before_s = self._tried.get(account_id)
            pause_s = FIRST_PAUSE_S if before_s is None else min(before_s * 2, MOST_PAUSE_S)
            self._locked[account_id] = _Locked([], pause_s, now_s + pause_s)
        later, self.ready = self.ready, []
        for item in batch:
            if self._account_of(item) in locked:
                self._locked[self._account_of(item)].items.append(item)
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
        # Set while something may be ready.
        self._arrived = asyncio.Event()
        self._writing = asyncio.Lock()
        self._retry_s = FIRST_RETRY_S
        self._alarmed_at = self._alarmed_locked_at = float("-inf")
        # Whether the last attempt failed.
        self.unavailable = False
        # Whether Postgres is there and takes no debits: an operator must find out why.
        self.hindered = False

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def locked(self) -> Set[str]:
        """Return accounts whose debits wait because their rows are locked, if only for a moment."""
        return self.waiting.locked

    @property
    def long_locked(self) -> frozenset[str]:
        """Return those of them whose rows have been locked for a while."""
        return self.waiting.long_locked

    @abstractmethod
    def _debits(self, items: list[Item]) -> Sequence[Debit]:
        """Return the debits of these items, in their order."""

    @abstractmethod
    async def _written(self, items: list[Item], stored: dict[str, Stored]) -> None:
        """Act on each of these items, even where that fails for one: none is written again. `stored` are the rows that
        Postgres has of them, by request id: none of one that was set waiting."""

    async def flush(self) -> None:
        """Write all that waits now, but for debits of accounts whose rows are locked: these wait on.

        Raises `DatabaseError`, and what else writing raises; what was not written still waits then.
        """
        async with self._writing:
            waiting = self.waiting
            left = len(waiting)
            while left > 0 and (batch := waiting.batch(self._rows)):
                try:
                    written = await write_batch(self._database, self._debits(batch))
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
        """Wait for an item that may be written, or until a locked account is to be tried again."""
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
        """Halve the next batch, and put one debit that fails alone behind the others: should the
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
        locked, now = self.waiting.long_locked, time.monotonic()
        if locked and now - self._alarmed_locked_at >= ALARM_EVERY_S:
            waiting = sum(map(self.waiting.count_locked, locked))
            logger.error(
                "%d debits wait, for the rows of %d accounts in Postgres are locked by another session: %s",
                waiting,
                len(locked),
                ", ".join(sorted(locked)[:NAMED]),
            )
            self._alarmed_locked_at = now


class _Unconfirmed:
    """A debit on its way, its settlement, and the timer that gives up waiting. `vanished_in` is the epoch in which
    Redis should have had its hold, and had no entry of it."""

    __slots__ = ("debit", "hold", "settlement", "timer", "vanished_in")

    def __init__(self, hold: Hold, settlement: Settlement, vanished_in: int | None) -> None:
        self.hold = hold
        self.debit = settlement.debit
        self.settlement = settlement
        self.vanished_in = vanished_in
        self.timer: asyncio.TimerHandle | None = None

    def decided(self, stored: Stored | None) -> None:
        """Pass on what the ledger has of the request: this debit, or the one that was first."""
        if self.timer is not None:
            self.timer.cancel()
        if stored is None:
            self.hold.enter("refused")
            self.fail("the ledger refused the debit, which is a dead letter")
        elif stored.outcome != "settled":
            self.hold.enter("refused")
            self.fail("the hold had expired")
        else:
            self.hold.enter("settled")
            self.settlement.end(Settled(None))

    def late(self) -> None:
        """Give up waiting, while the writing goes on."""
        logger.error("debit %s could not leave this process in time", self.hold.id)
        self.fail("neither Redis nor Postgres took it in time")

    def fail(self, why: str) -> None:
        """Let the settlement be lost, unless it is over already."""
        self.settlement.lose(why)


class DirectLedgerWriter(DebitWriter[_Unconfirmed]):
    """Writes debits that Redis did not confirm to Postgres, as corrections, and then updates Redis.

    The outcome of such a settlement is what the ledger has stored for its request, or `SettlementLost` where that took
    more than `timeout_s`; the writing goes on then. All that wait are written together: a hot account's row is locked
    by one transaction at a time, and a transaction for each debit would let them through at the pace of the commits.
    Bounded by what is admitted: every debit belongs to a request that is being served.
    """

    def __init__(
        self,
        corrections: Corrections,
        running: RunningHolds,
        on_failure: Callable[[Exception], None],
        *,
        batch_rows: int,
        timeout_s: float,
    ) -> None:
        database = corrections.partitions.database
        super().__init__(database, attrgetter("debit.account_id"), on_failure, batch_rows=batch_rows)
        self._corrections = corrections
        self._running = running
        self._timeout_s = timeout_s
        # Accounts with corrections that Redis has not got yet.
        self._unpushed: dict[str, Partition] = {}
        self._pushes = False

    def add(self, hold: Hold, settlement: Settlement, vanished_in: int | None = None) -> None:
        """Take a settlement that Redis has not confirmed."""
        unconfirmed = _Unconfirmed(hold, settlement, vanished_in)
        unconfirmed.timer = self._loop.call_later(self._timeout_s, unconfirmed.late)
        if self.waiting.add(unconfirmed):
            self._arrived.set()

    async def run(self) -> None:
        """Write for ever, with bounded back-off while Postgres is away."""
        while True:
            await self._until_due()
            await self._flush_or_pause()

    async def drain(self) -> None:
        """Write until nothing waits, as `run` does."""
        while len(self.waiting):
            await self._until_due()
            await self._flush_or_pause()

    def _debits(self, items: list[_Unconfirmed]) -> list[Debit]:
        return [each.debit for each in items]

    async def _written(self, items: list[_Unconfirmed], stored: dict[str, Stored]) -> None:
        for each in items:
            try:
                self._decide(each, stored.get(each.debit.request_id))
            except Exception as error:  # whatever it was: the others' outcomes do not depend on it
                each.fail("its debit is in the ledger, and the hold could not be ended")
                self._on_failure(error)
        if self._unpushed and not self._pushes:
            self._pushes = True
            self._running.spawn(self._push())

    def _decide(self, unconfirmed: _Unconfirmed, row: Stored | None) -> None:
        """End a hold by what the ledger has of its request."""
        partition = unconfirmed.hold.target.partition
        self._running.live.pop(unconfirmed.hold.id, None)
        self._unpushed[unconfirmed.debit.account_id] = partition
        unconfirmed.decided(row)
        if unconfirmed.vanished_in is not None and row is not None and row.fresh:
            # Nobody had ended it, for an expired one has a row: Redis has lost it.
            self._corrections.partitions.lost_writes(partition, unconfirmed.vanished_in)

    async def _push(self) -> None:
        """Let Redis know of what was written; where it is away, the relay does so later."""
        try:
            while self._unpushed:
                account_id, partition = self._unpushed.popitem()
                try:
                    await self._corrections.sync(partition, account_id)
                except StoreError as error:
                    logger.info("correction of %s reaches Redis later: %s", account_id, error)
        finally:
            self._pushes = False
