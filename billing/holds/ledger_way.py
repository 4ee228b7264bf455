"""The ledger's own way (rule R4): settlements that Redis did not confirm are written to Postgres as corrections.

This file owns that whoever waits for such a debit is told what the ledger has stored of its request, or that this could
not be done in time, while the writing goes on; and that one writer takes all that wait in batches. A hot account's row
is locked by one transaction at a time: a transaction for each debit would let them through at the pace of the commits.
Debits of an account whose row somebody else has locked stand aside (`debit_queue.py`) and keep nobody else waiting.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Set
from contextlib import suppress
from typing import Any, Final

from billing.database.connection import Database, DatabaseError
from billing.errors import StoreError
from billing.holds.corrections import Corrections
from billing.holds.debit_queue import DebitQueue
from billing.holds.hold import Hold, Settled, SettlementLost
from billing.holds.partitions import Partition
from billing.ledger.debits import Debit, Stored, write_free

logger = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 0.1
MOST_RETRY_S: Final = 5.0


class _Waiting:
    """A debit on its way, who waits for it, and when that is given up. `vanished_in` is the epoch in which Redis should
    have had its hold, and had no entry of it."""

    __slots__ = ("debit", "hold", "outcome", "timer", "vanished_in")

    def __init__(self, hold: Hold, debit: Debit, outcome: "asyncio.Future[Settled]", vanished_in: int | None) -> None:
        self.hold = hold
        self.debit = debit
        self.outcome = outcome
        self.vanished_in = vanished_in
        self.timer: asyncio.TimerHandle | None = None

    def told(self, stored: Stored | None) -> None:
        """The ledger has decided: by this debit or by whoever was first."""
        if self.timer is not None:
            self.timer.cancel()
        if stored is None:
            self.fail("the ledger refused the debit, which is set aside")
        elif stored.outcome != "settled":
            self.fail("the hold had expired")
        elif not self.outcome.done():
            self.outcome.set_result(Settled(None))

    def late(self) -> None:
        """It took too long for whoever waits."""
        logger.error("debit %s could not leave this process in time", self.hold.id)
        self.fail("neither Redis nor Postgres could be told in time")

    def fail(self, why: str) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(SettlementLost(why))
        if not self.outcome.cancelled():
            self.outcome.exception()  # looked at: nobody may be waiting any more


class LedgerWay:
    """Writes debits in batches of at most `batch_rows`, and lets Redis know. Whoever waits for one that is not written
    `timeout_s` after it came gets `SettlementLost`. `live` forgets a hold once its debit is written; `spawn` runs what
    must finish; `on_lost` is told where Redis has lost a hold in an epoch. Bounded by what is admitted: every debit
    belongs to a request that is being served."""

    def __init__(
        self,
        database: Database,
        corrections: Corrections,
        live: dict[str, Hold],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_lost: Callable[[Partition, int], None],
        *,
        batch_rows: int,
        timeout_s: float,
    ) -> None:
        self._database = database
        self._corrections = corrections
        self._live = live
        self._spawn = spawn
        self._on_lost = on_lost
        self._batch_rows = batch_rows
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting: DebitQueue[_Waiting] = DebitQueue(lambda each: each.debit.account_id, self._loop.time)
        self._untold: dict[str, Partition] = {}
        self._arrived = asyncio.Event()
        self._writing = False
        self._telling = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def locked(self) -> Set[str]:
        """Accounts whose debits wait because their rows are locked."""
        return self._waiting.locked

    def add(self, hold: Hold, debit: Debit, outcome: "asyncio.Future[Settled]", vanished_in: int | None = None) -> None:
        """Take a debit that Redis has not confirmed."""
        waiting = _Waiting(hold, debit, outcome, vanished_in)
        waiting.timer = self._loop.call_later(self._timeout_s, waiting.late)
        self._waiting.add(waiting)
        self._arrived.set()
        if not self._writing:
            self._writing = True
            self._spawn(self._write())

    async def _write(self) -> None:
        """Write until nothing waits, with bounded back-off while Postgres is away."""
        retry_s = FIRST_RETRY_S
        try:
            while len(self._waiting):
                batch = self._waiting.batch(self._batch_rows)
                if not batch:
                    await self._until_due()
                    continue
                try:
                    written = await write_free(self._database, [each.debit for each in batch])
                except DatabaseError as error:
                    logger.warning("%d debits wait for Postgres: %s", len(self._waiting), error)
                    await asyncio.sleep(retry_s)
                    retry_s = min(retry_s * 2, MOST_RETRY_S)
                else:
                    retry_s = FIRST_RETRY_S
                    self._waiting.done(batch, written.locked)
                    done = [each for each in batch if each.debit.account_id not in written.locked]
                    self._written(done, written.stored)
        finally:
            self._writing = False

    async def _until_due(self) -> None:
        """Wait until those that stand aside are to be tried again, or others come."""
        due_s = self._waiting.due_s
        self._arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due_s):
                await self._arrived.wait()

    def _written(self, batch: Iterable[_Waiting], stored: dict[str, Stored]) -> None:
        for each in batch:
            row, partition = stored.get(each.debit.request_id), each.hold.place.partition
            each.told(row)
            self._live.pop(each.hold.id, None)
            self._untold[each.debit.account_id] = partition
            if each.vanished_in is not None and row is not None and row.fresh:
                self._on_lost(partition, each.vanished_in)  # nobody had ended it: an expired one has a row
        if not self._telling:
            self._telling = True
            self._spawn(self._tell())

    async def _tell(self) -> None:
        """Let Redis know of what was written; one that is away learns it from the relay."""
        try:
            while self._untold:
                account_id, partition = self._untold.popitem()
                try:
                    await self._corrections.sync(partition, account_id)
                except StoreError as error:
                    logger.info("correction of %s reaches Redis later: %s", account_id, error)
        finally:
            self._telling = False
