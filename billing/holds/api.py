"""Holds: admission and settlement for a server of requests.

    async with holds.open(HoldRequest(id=..., principal=..., ...)) as decision:
        if isinstance(decision, Hold): ... await holds.settle(decision, debit)

There is no way out of the block that leaves a hold unresolved: one that was not settled is given back, or becomes the
debit that it owes once a provider has worked for it (`Hold.owe`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from billing.database.connection import Database, DatabaseError, queries
from billing.holds.admission import Admissions, Backlog, Opening
from billing.holds.lasting import LASTING
from billing.holds.model import Hold, Settled, SettleItem, VoidItem, as_counted
from billing.holds.redis.connection import RedisAway, RedisError
from billing.holds.redis.layout import OK, VANISHED
from billing.holds.wait_queue import WaitQueues

if TYPE_CHECKING:
    from billing.holds.admission import StateRepair
    from billing.holds.batch import RunningHolds
    from billing.holds.debit_writer import DirectLedgerWriter
    from billing.holds.model import HoldRequest, HoldSettings
    from billing.holds.outbox import Outbox
    from billing.holds.partition import Partition
    from billing.ledger.debits import Debit

logger = logging.getLogger(__name__)

STORED_DEBITS: Final = queries("billing.ledger")("stored_debits")


class Holds:
    """The hot path of one gateway process."""

    def __init__(
        self,
        database: Database,
        repairs: StateRepair,
        running: RunningHolds,
        outbox: Outbox,
        direct: DirectLedgerWriter,
        *,
        gateway_id: str,
        settings: HoldSettings,
    ) -> None:
        self._database = database
        self._partitions = repairs.partitions
        self._outbox = outbox
        self._direct = direct
        self._batchers = running.batchers
        self._loop = running.loop
        self._tasks = running.tasks
        self.live = running.live
        self.spawn = running.spawn
        self.backlog = Backlog(repairs.partitions, self.live, outbox.waiting, settings.max_unsettled)
        self.queues = WaitQueues(settings.queue_requests)
        self.admissions, self._lasting = (
            Admissions(holder, running, repairs, self.backlog, self.queues, self.resolve, settings)
            for holder in (gateway_id, LASTING)
        )

    def open(self, request: HoldRequest) -> Opening:
        """Return a context manager that asks for a hold, and enters with a `Decision`."""
        return Opening(self.admissions, request)

    def open_lasting(self, request: HoldRequest) -> Opening:
        """Return a context manager as `open` does, for a hold that outlasts this process once it is `kept`."""
        return Opening(self._lasting, request)

    def kept(self, hold: Hold) -> None:
        """Give up a hold of `open_lasting` that has a row in Postgres, or may have one: it is not this process's any
        more."""
        hold.enter("lasting")
        self.live.pop(hold.id, None)

    def written(self, hold: Hold) -> None:
        """End a hold whose debit is in the ledger, by another way than `settle`. Its correction ends it in Redis, where
        it was not given back because this process ends."""
        if not hold.is_open:
            return
        outcome: asyncio.Future[Settled] = self._loop.create_future()
        hold.begin_settling(outcome)
        outcome.set_result(Settled(None))
        self._ended(hold)

    def _ended(self, hold: Hold) -> None:
        hold.enter("settled")
        self.live.pop(hold.id, None)
        self.queues.freed(hold.target.account_key)

    def settle(self, hold: Hold, debit: Debit) -> asyncio.Future[Settled]:
        """End a hold with this debit. It is submitted when this returns, and outside this process when the answer is
        there; whether anybody waits for that changes nothing.

        The answer raises `SettlementLost` when neither store took the debit in time, or when the ledger has decided
        that the hold had expired: the client's answer must be cut then. The debit still reaches the ledger if anything
        here survives.

        A hold is settled once: a second call gets what the first one does, for two debits of different amounts would be
        counted one in Redis and the other in the ledger. Raises `IllegalTransition` for one that was given back.
        """
        if hold.outcome is not None:
            return hold.outcome
        item = SettleItem(hold, debit, self._loop.create_future(), self._settled)
        hold.begin_settling(item.outcome)
        partition = hold.target.partition
        if hold.moving is not None:
            hold.moving.add_done_callback(lambda _: self._send(item))
        elif partition.epoch == hold.epoch:
            self._batchers[partition.number].submit(item)
        else:
            self._send(item)
        return item.outcome

    def _send(self, item: SettleItem) -> None:
        """Submit a settlement whose hold has been held again, or could not be."""
        partition = item.hold.target.partition
        if partition.epoch == item.hold.epoch:
            self._batchers[partition.number].submit(item)
        else:
            self._settled(item, RedisAway("the hold is of an older epoch"), -1)

    def _settled(self, item: SettleItem, reply: list[Any] | RedisError, epoch: int) -> None:
        """Act on Redis's reply to a settlement, whether or not anybody still waits for it."""
        hold = item.hold
        if isinstance(reply, RedisError) or reply[0] != OK:
            vanished = reply == VANISHED and epoch == hold.epoch
            self._direct.add(hold, item.debit, item.outcome, epoch if vanished else None)
            return
        self._outbox.add(as_counted(item.debit, epoch, reply[1]))
        self._ended(hold)
        if not item.outcome.done():
            item.outcome.set_result(Settled(reply[2]))

    async def void(self, hold: Hold) -> None:
        """Give a hold back; one that is ending is left alone. When Redis does not answer, the sweep finds it."""
        while hold.moving is not None:
            await asyncio.shield(hold.moving)
        if not hold.is_open:
            return
        hold.enter("voided")
        self.live.pop(hold.id, None)
        target = hold.target
        item = VoidItem(hold.id_bytes, target)
        self._batchers[target.partition.number].submit(item)
        await item.answer
        self.queues.freed(target.account_key)
        if item.vanished_in == hold.epoch:
            self.spawn(self.find_lost(target.partition, [hold.id], hold.epoch))

    async def find_lost(self, partition: Partition, request_ids: Sequence[str], epoch: int) -> None:
        """Find out why holds of this epoch, running until now, are not in Redis any more. Another gateway may have
        taken this one for dead and have them expired: the ledger has rows then. If not, Redis has lost them."""
        try:
            rows = await self._database.rows(STORED_DEBITS, request_ids)
            for row in rows:
                if row["request_id"] in self.live:
                    self.live[row["request_id"]].closed(row["outcome"])
            if len(rows) < len(request_ids):
                self._partitions.lost_writes(partition, epoch)
        except DatabaseError as error:
            logger.info("%d holds are not in Redis, and the ledger can't be asked: %s", len(request_ids), error)

    async def resolve(self, hold: Hold) -> None:
        """End a hold that was neither settled nor voided: with the debit that it owes, or given back."""
        if not hold.is_open:
            return
        if hold.owed_debit is None:
            await self.void(hold)
        else:
            await asyncio.wait([self.settle(hold, hold.owed_debit(hold))])

    def hand_over(self, hold: Hold, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` go on without the request that opened this hold. It must settle or void it, if nobody has begun
        to; should it do neither, the hold is resolved."""
        if hold.state in ("held", "owed"):
            hold.enter("handed_over")

        async def finish() -> None:
            try:
                await work
            finally:
                await self.resolve(hold)

        self.spawn(finish())

    async def resolve_rest(self, timeout_s: float) -> None:
        """Resolve what nobody has begun to settle or void, for this process ends: there is no time to count what it
        has used, and left open it would be given back. Waits at most so long for the stores."""
        rest = [hold for hold in self.live.values() if hold.is_open]
        if rest:
            logger.warning("%d requests end with this process, and cost what they hold", len(rest))
            await asyncio.wait([asyncio.ensure_future(self.resolve(hold)) for hold in rest], timeout=timeout_s)

    async def drain(self, timeout_s: float) -> bool:
        """Wait for what is still being settled, and write what waits. Return whether all of it was done in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks or len(self._direct):
                    if len(self._direct):
                        self.spawn(self._direct.drain())
                    await asyncio.wait(self._tasks)
                await self._partitions.renewed()
                await self._outbox.drain()
        except (TimeoutError, DatabaseError):
            return False
        return True
