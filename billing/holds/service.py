"""Holds: admission and settlement for whoever serves requests.

    async with holds.open(request_id, principal, model, feature, need, debit) as decision:
        if isinstance(decision, Hold): ... await holds.settle(decision, debit)

There is no way out of the block that leaves a hold unresolved: one that was not settled is given back, or becomes the
debit that it owes once a provider has worked for it (`Hold.unresolved`).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from billing.database.connection import Database, DatabaseError, queries
from billing.holds.admission import Admissions, Holding, Lesser, Opening
from billing.holds.admission_queue import AdmissionQueue
from billing.holds.backlog import Backlog
from billing.holds.corrections import Corrections
from billing.holds.decision import Need
from billing.holds.hold import Hold, Settled, SettleItem, VoidItem, at_place
from billing.holds.ledger_way import LedgerWay
from billing.holds.loader import Loader
from billing.holds.outbox import Outbox
from billing.holds.partitions import NotReady, Partition, Partitions
from billing.holds.redis import RedisAway, RedisError, Script
from billing.holds.redis.batcher import Batcher, Item
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import OK, VANISHED
from billing.ledger.debits import Debit
from billing.principals import Principal

logger = logging.getLogger(__name__)

STORED_DEBITS: Final = queries("billing.ledger")("stored_debits")


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """Bounds of admission and settlement."""

    batch_items: int = 32
    max_unsettled: int = 100_000
    redis_timeout_s: float = 0.5
    settle_timeout_s: float = 0.5
    ledger_timeout_s: float = 10.0
    admission_wait_s: float = 2.0
    elastic_millionths: int = 250_000
    elastic_output_tokens: int = 4_096
    queue_requests: int = 256


class Holds:
    """The hot path of one gateway process."""

    def __init__(
        self,
        database: Database,
        keyspace: Keyspace,
        partitions: Partitions,
        loader: Loader,
        outbox: Outbox,
        corrections: Corrections,
        gateway_id: str,
        settings: HoldSettings,
        ledger_batch_rows: int,
    ) -> None:
        self._database = database
        self._partitions = partitions
        self._outbox = outbox
        script = Script("hot")
        self._batchers = [
            Batcher(
                keyspace,
                partition,
                script=script,
                max_items=settings.batch_items,
                max_unsettled=settings.max_unsettled,
                timeout_s=min(settings.redis_timeout_s, settings.settle_timeout_s),
                elastic_millionths=settings.elastic_millionths,
                elastic_output_tokens=settings.elastic_output_tokens,
            )
            for partition in partitions.all
        ]
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lost: set[tuple[int, int]] = set()
        self.live: dict[str, Hold] = {}
        self._ledger_way = LedgerWay(
            database,
            corrections,
            self.live,
            self.spawn,
            self.lost_writes,
            batch_rows=ledger_batch_rows,
            timeout_s=settings.ledger_timeout_s,
        )
        self.backlog = Backlog(partitions, keyspace, self.live, outbox, settings.max_unsettled)
        self.queue = AdmissionQueue(settings.queue_requests)
        self.admissions = Admissions(
            self._batchers,
            keyspace,
            partitions,
            loader,
            self.live,
            self.backlog,
            self.queue,
            self.resolve,
            gateway_id=gateway_id,
            timeout_s=settings.redis_timeout_s,
            wait_s=settings.admission_wait_s,
        )

    @property
    def locked(self) -> Set[str]:
        """Accounts whose debits on the ledger's own way wait because their rows are locked."""
        return self._ledger_way.locked

    def open(
        self,
        request_id: str,
        principal: Principal,
        model: str,
        feature: str,
        need: Need,
        expired: Debit | bytes,
        meanwhile: Callable[[], None] | None = None,
        *,
        lesser: Lesser | None = None,
        queue_s: float = 0.0,
        holding: Holding | None = None,
    ) -> Opening:
        """Ask for a hold; `expired` is the debit that the request becomes should this process die (charged or not by
        `expired_hold`), or that debit encoded, where it is the same for many; `meanwhile` is called, at most once,
        while Redis is asked, where requests are few. `lesser` is asked for a smaller need where this one does not fit;
        a request that only running ones keep out waits for them, at most `queue_s` seconds, and `holding` is asked
        before it goes on: what it was made from may hold no more.

        A context manager: what it enters with is a `Decision`."""
        arguments = (request_id, principal, model, feature, need, expired, meanwhile, lesser, queue_s, holding)
        return Opening(self.admissions, *arguments)

    def settle(self, hold: Hold, debit: Debit) -> "asyncio.Future[Settled]":
        """End a hold as this debit. It is submitted when this returns, and outside this process when the answer is
        there; whether anybody waits for that changes nothing.

        It raises `SettlementLost` when neither store could be told in time, or when the ledger has decided that the
        hold had expired: the answer must be cut then. The debit still reaches the ledger if anything here survives.

        A hold is settled once: whoever comes second gets what the first one does. Two debits of different amounts would
        be counted one in Redis and the other in the ledger.
        """
        if hold.outcome is not None:
            return hold.outcome
        item = SettleItem(hold, debit, self._loop.create_future(), self._settled)
        hold.ending, hold.outcome = True, item.outcome
        if hold.reholding is None:
            self._send(item)
        else:
            hold.reholding.add_done_callback(lambda _: self._send(item))
        return item.outcome

    def _send(self, item: SettleItem) -> None:
        partition = item.hold.place.partition
        if partition.epoch == item.hold.epoch:
            self._batchers[partition.number].submit(item)
        else:
            self._settled(item, RedisAway("the hold is of an older epoch"), -1)

    def _settled(self, item: SettleItem, reply: list[Any] | RedisError, epoch: int) -> None:
        """What Redis says of a settlement, whether or not anybody still waits for it."""
        if isinstance(reply, RedisError) or reply[0] != OK:
            vanished = reply == VANISHED and epoch == item.hold.epoch
            self._ledger_way.add(item.hold, item.debit, item.outcome, epoch if vanished else None)
            return
        self._outbox.add(at_place(item.debit, epoch, reply[1]))
        self.live.pop(item.hold.id, None)
        self.queue.freed(item.account_key)
        if not item.outcome.done():
            item.outcome.set_result(Settled(reply[2]))

    async def void(self, hold: Hold) -> None:
        """Give a hold back. When Redis does not answer, the sweep finds it."""
        if hold.reholding is not None:
            await asyncio.shield(hold.reholding)
        first, hold.ending = not hold.ending, True
        self.live.pop(hold.id, None)
        item = VoidItem(hold.id_bytes, hold.place.account_key, hold.place.key_key)
        self._batchers[hold.place.partition.number].submit(item)
        await item.answer
        self.queue.freed(item.account_key)
        if first and item.vanished_in == hold.epoch:
            self.spawn(self.doubt(hold.place.partition, [hold.id], hold.epoch))

    async def doubt(self, partition: Partition, request_ids: Sequence[str], epoch: int) -> None:
        """Holds of this epoch, running until now, are not in Redis any more. Another gateway may have taken this one
        for dead and have them expired: the ledger has rows then. If not, Redis has lost them."""
        try:
            rows = await self._database.rows(STORED_DEBITS, request_ids)
            for row in rows:
                if row["request_id"] in self.live:
                    self.live[row["request_id"]].closed(row["outcome"])
            if len(rows) < len(request_ids):
                self.lost_writes(partition, epoch)
        except DatabaseError as error:
            logger.info("%d holds are not in Redis, and the ledger can't be asked: %s", len(request_ids), error)

    def lost_writes(self, partition: Partition, epoch: int) -> None:
        """Redis or the ledger has lost what it wrote in this epoch: what Redis says of balances and holds is not
        believed any more, and a new epoch begins."""
        if partition.epoch == epoch and (partition.number, epoch) not in self._lost:
            logger.error("partition %d: writes of epoch %d are lost: a new one begins", partition.number, epoch)
            self._lost.add((partition.number, epoch))
            self.spawn(self._renew(partition, epoch))

    async def _renew(self, partition: Partition, epoch: int) -> None:
        try:
            await self._partitions.renew(partition, epoch)
            await self._partitions.join(partition)
        except NotReady as error:
            logger.info("partition %d: %s", partition.number, error)
        finally:
            self._lost.discard((partition.number, epoch))

    async def resolve(self, hold: Hold) -> None:
        """End a hold that whoever served it neither settled nor voided: as the debit that it owes, or given back."""
        if hold.ending:
            return
        if hold.unresolved is None:
            await self.void(hold)
        else:
            await asyncio.wait([self.settle(hold, hold.unresolved(hold))])

    def submit(self, partition: Partition, item: Item) -> None:
        """Send an item of another part of the engine on the hot path."""
        self._batchers[partition.number].submit(item)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what must finish even if whoever began it is cancelled; `drain` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hand_over(self, hold: Hold, work: Coroutine[Any, Any, None]) -> None:
        """Whoever served this hold was cancelled: `work` goes on, and must settle or void it. Should it do neither, the
        hold is resolved."""
        hold.handed_over = True

        async def finish() -> None:
            try:
                await work
            finally:
                await self.resolve(hold)

        self.spawn(finish())

    async def resolve_rest(self, timeout_s: float) -> None:
        """Resolve what nobody has begun to settle or void, for this process ends: there is no time to count what it
        has used, and left open it would be given back. Waits at most so long for the stores."""
        rest = [hold for hold in self.live.values() if not hold.ending]
        if rest:
            logger.warning("%d requests end with this process, and cost what they hold", len(rest))
            await asyncio.wait([asyncio.ensure_future(self.resolve(hold)) for hold in rest], timeout=timeout_s)

    async def drain(self, timeout_s: float) -> bool:
        """Wait for what is still being settled, then write what waits. Whether all of it was done in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await self._outbox.drain()
        except (TimeoutError, DatabaseError):
            return False
        return True
