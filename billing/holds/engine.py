"""The engine: everything that one gateway process runs to hold and settle, wired and started together.

    async with Engine(...) as engine:
        engine.holds, engine.cache, engine.announcer

Beside the hot path it keeps its lease (`lease.py`, a thread), and runs as loops (`loops.py`) the outbox, the rollups'
roller, a relay each second (epochs, changes that were not told), a sweep of the journals, and the subscription to
changes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from billing.database.connection import Database, DatabaseError, queries
from billing.errors import StoreError
from billing.holds.cache import CacheSettings, PrincipalCache
from billing.holds.change_notifier import Announcer
from billing.holds.corrections import Corrections
from billing.holds.expiry import ExpiredHold, Expiry
from billing.holds.lease import Lease
from billing.holds.loader import Loader, LostWrites, plan_lookup
from billing.holds.loops import Loops, asked_to_end
from billing.holds.outbox import Outbox
from billing.holds.partitions import Partition, Partitions, why_beside
from billing.holds.peers import Peers
from billing.holds.reconcile import Reconciler
from billing.holds.recovery import Recovery
from billing.holds.redis import RedisClient, RedisError, refuse_eviction
from billing.holds.redis.batcher import Item
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis_errors import NotReady
from billing.holds.service import Holds, HoldSettings
from billing.holds.spool import Spool
from billing.ledger.leases import end_all_leases
from billing.ledger.rollups import Roller
from billing.plans import DEFAULT_PLAN, Plan
from billing.principals import Principal
from billing.quotas import Quota

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
READ_ACCOUNT: Final = _sql("read_account_principal")

RELAY_INTERVAL_S: Final = 1.0
TEND_TIMEOUT_S: Final = 2.0
SWEEP_INTERVAL_S: Final = 2.0
RESUBSCRIBE_S: Final = 0.2
LAST_S: Final = 1.0
"""For the stores to be told of what a process that ends has not come to settle."""
START_ATTEMPTS: Final = 50
START_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine beside the hot path's own."""

    holds: HoldSettings = field(default_factory=HoldSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    lease_s: float = 5.0
    stall_s: float = 30.0
    expired_hold: ExpiredHold = "void"
    default_plan: str = DEFAULT_PLAN
    ledger_batch_rows: int = 500
    ledger_flush_s: float = 0.2
    spool_folder: Path | None = None


class Engine:
    """One gateway process's part in metering. `load_principal` reads the principal of a key's digest from Postgres."""

    def __init__(
        self,
        database: Database,
        link: RedisClient,
        keyspace: Keyspace,
        plans: Mapping[str, Plan],
        load_principal: Callable[[bytes], Awaitable[Principal | None]],
        gateway_id: str,
        settings: EngineSettings | None = None,
    ) -> None:
        settings = settings or EngineSettings()
        self._database = database
        self._link = link
        self.keyspace = keyspace
        self._gateway_id = gateway_id
        self._settings = settings
        self.loops = Loops()
        self._sweep_now = asyncio.Event()
        self.peers = Peers(database, gateway_id, settings.lease_s)
        self.lease = Lease(
            database,
            gateway_id,
            self.peers,
            lease_s=settings.lease_s,
            stall_s=settings.stall_s,
            on_loss=self._sweep_now.set,
            on_judged=self._sweep_now.set,
            on_failure=lambda error: self.loops.failed("lease", error),
        )
        self.partitions = Partitions(
            database,
            link,
            keyspace,
            gateway_id,
            self._prepare,
            self.peers.living,
            self.peers.lost,
            self.peers.of_other_layouts,
        )
        self.corrections = Corrections(database, link, keyspace, self._account_quotas, self._lost_writes)
        self.outbox = Outbox(
            database,
            link,
            keyspace,
            self.partitions.of,
            self.corrections.sync,
            batch_rows=settings.ledger_batch_rows,
            flush_s=settings.ledger_flush_s,
        )
        plan_of = plan_lookup(plans, settings.default_plan)
        wait_s = settings.holds.admission_wait_s
        self.loader = Loader(database, link, keyspace, plan_of, self.outbox.flush, wait_s=wait_s)
        self.holds = Holds(
            database,
            keyspace,
            self.partitions,
            self.loader,
            self.outbox,
            self.corrections,
            gateway_id,
            settings.holds,
            settings.ledger_batch_rows,
        )
        self.recovery = Recovery(
            database,
            link,
            keyspace,
            self.loader,
            self.outbox,
            self.corrections,
            self.holds.live,
            self._submit,
            self.holds.doubt,
            lambda: self.holds.locked,
            gateway_id,
            self.peers,
            Expiry(database, link, keyspace, self.corrections, self.lease.renew, settings.expired_hold),
        )
        self.cache = PrincipalCache(load_principal, settings.cache, time.monotonic)
        self.announcer = Announcer(database, link, keyspace, self.partitions, self.loader, self.corrections, self.cache)
        self.reconciler = Reconciler(database, link, keyspace, self.partitions, self.loader, self.corrections)
        self.roller = Roller(database, gateway_id)

    async def _prepare(self, partition: Partition, epoch: int) -> frozenset[str] | None:
        return await self.recovery.prepare(partition, epoch)

    async def _account_quotas(self, account_id: str) -> tuple[Quota, ...]:
        row = await self._database.row(READ_ACCOUNT, account_id)
        return self.loader.account_quotas(row["plan"], row["quotas"]) if row is not None else ()

    def _lost_writes(self, partition: Partition, epoch: int) -> None:
        self.holds.lost_writes(partition, epoch)

    def _submit(self, partition: Partition, item: Item) -> None:
        self.holds.submit(partition, item)

    def locked_accounts(self) -> frozenset[str]:
        """Accounts that wait, with their debits or for this epoch, because their rows in Postgres are locked."""
        return self.outbox.locked.union(*(partition.holding_back for partition in self.partitions.all))

    def plans_changed(self) -> None:
        """Other plans are in force: principals are read anew, and so is what their accounts' counters are."""
        self.cache.clear()
        self.reconciler.plans_changed()

    async def __aenter__(self) -> "Engine":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Take a lease, agree on every partition's epoch and start what runs beside. Waits a bounded time for other
        gateways to join; raises `DatabaseError` or `NotReady` where a store is away, or gateways live that this one
        can't run beside, `RedisUnfit` where Redis may evict."""
        await refuse_eviction(self._link)
        await self._wait_for_other_layouts()
        await self.lease.renew()
        await self.partitions.look_at_ledger()
        self.outbox.spool = self._open_spool()
        self.lease.start()
        try:
            await self._begin()
        except BaseException:
            await self.loops.stop()
            await self.lease.stop()
            await self._end_lease()
            raise

    async def _wait_for_other_layouts(self) -> None:
        """Gateways that this one can't run beside may be ending, or not be known to be dead yet. Waits without a lease,
        for those would wait for whoever has one before they open an epoch. Raises `DatabaseError`, `NotReady`."""
        others = await self.peers.of_other_layouts()
        for _ in range(START_ATTEMPTS):
            if not others:
                return
            await asyncio.sleep(START_PAUSE_S)
            await self.peers.look()
            others = await self.peers.of_other_layouts()
        if others:
            raise NotReady(why_beside(others))

    def _open_spool(self) -> Spool | None:
        folder = self._settings.spool_folder
        try:
            return Spool(folder, self._gateway_id) if folder is not None else None
        except OSError as error:
            logger.warning("debits have no second copy on this machine: %s", error)
            return None

    async def _begin(self) -> None:
        for _ in range(START_ATTEMPTS):
            if all([await self._join(partition) for partition in self.partitions.all]):
                break
            await asyncio.sleep(START_PAUSE_S)
        await self.holds.backlog.look()
        subscribed = asyncio.Event()
        self.loops.start("outbox", self.outbox.run)
        self.loops.start("roller", self.roller.run)
        self.loops.start("relay", self._relay)
        self.loops.start("sweep", self._sweep)
        self.loops.start("subscribe", lambda: self._subscribe(subscribed))
        async with asyncio.timeout(START_ATTEMPTS * START_PAUSE_S):
            await subscribed.wait()

    async def stop(self, timeout_s: float = 10.0) -> bool:
        """Finish settlements, write what waits, give the lease back. Whether everything was written in time; what is
        still being worked for then is charged as it is held."""
        done = await self.holds.drain(timeout_s)
        if not done:
            await self.holds.resolve_rest(LAST_S)
        await self.loops.stop()
        await self.lease.stop()
        if self.outbox.spool is not None:
            self.outbox.spool.close()
        if not self.holds.live:
            await self._end_lease()
        return done

    async def _end_lease(self) -> None:
        try:
            await self.lease.end()
        except DatabaseError as error:
            logger.info("the lease runs out by itself: %s", error)

    async def end_all_leases(self) -> None:
        """End every gateway's lease; only for whoever knows that no gateway is alive. Raises `DatabaseError`."""
        await end_all_leases(self._database)

    async def _join(self, partition: Partition) -> bool:
        try:
            return await self.partitions.join(partition)
        except LostWrites as error:
            logger.error("%s: a new epoch begins", error)
            await self.partitions.renew(partition, error.epoch)
            return False

    async def _relay(self) -> None:
        while not asked_to_end():
            await asyncio.sleep(RELAY_INTERVAL_S)
            await asyncio.gather(self._look_at_ledger(), *map(self._tend, self.partitions.all))
            await self.holds.backlog.look()
            try:
                await self.announcer.relay()
            except (StoreError, TimeoutError) as error:
                logger.info("relay: %s", error)

    async def _look_at_ledger(self) -> None:
        try:
            async with asyncio.timeout(TEND_TIMEOUT_S):
                await self.partitions.look_at_ledger()
        except (DatabaseError, TimeoutError) as error:
            logger.info("the ledger can't be looked at: %s", error)

    async def _tend(self, partition: Partition) -> None:
        """Keep up with a partition's epoch; a server that is away does not keep the others' waiting."""
        try:
            async with asyncio.timeout(TEND_TIMEOUT_S):
                current = partition.epoch is not None and await self.partitions.is_current(partition)
                if not current or partition.holds_back or partition.holding_back:
                    await self._join(partition)
        except (StoreError, TimeoutError) as error:
            logger.info("partition %d: %s: %s", partition.number, type(error).__name__, error)

    async def _sweep(self) -> None:
        """At once when this gateway begins, when another one has died, and when others took this one for dead."""
        at_once = True
        while not asked_to_end():
            try:
                await self.recovery.replay()
            except DatabaseError as error:
                logger.info("spools are replayed later: %s", error)
            for partition in self.partitions.all:
                try:
                    if partition.epoch is not None:
                        await self.recovery.sweep(partition, at_once=at_once)
                except (StoreError, TimeoutError) as error:
                    logger.info("sweep of partition %d: %s", partition.number, error)
            at_once = await self._sweep_is_urgent()

    async def _sweep_is_urgent(self) -> bool:
        """Wait for the next sweep; whether it is for a reason."""
        try:
            async with asyncio.timeout(SWEEP_INTERVAL_S):
                await self._sweep_now.wait()
        except TimeoutError:
            return False
        self._sweep_now.clear()
        return True

    async def _subscribe(self, subscribed: asyncio.Event) -> None:
        def begun() -> None:
            self.cache.clear()
            self.cache.subscribed = True
            subscribed.set()

        while not asked_to_end():
            try:
                async for message in self._link.listen(self.keyspace.channel, begun):
                    self.cache.drop(message.decode())
            except RedisError as error:
                logger.info("%s; no principal is served from memory until it stands again", error)
            finally:
                self.cache.subscribed = False
            await asyncio.sleep(RESUBSCRIBE_S)
