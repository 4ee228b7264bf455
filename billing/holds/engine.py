"""The engine: everything that one gateway process runs to hold and settle, wired and started together.

    async with Engine(...) as engine:
        engine.holds, engine.cache, engine.change_notifier

Each part is made from parts that were made before it. Beside the hot path the engine keeps its lease (a thread), and
runs as loops the outbox, direct ledger writes, the rollups' roller, the care for lasting holds, and `Upkeep`: following
epochs and changes, sweeping journals, listening to changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from billing.database.connection import Database, DatabaseError
from billing.errors import StoreError
from billing.holds.api import Holds, StateRepair
from billing.holds.batch import RunningHolds
from billing.holds.cache import CacheSettings, PrincipalCache, RedisChangeNotifier
from billing.holds.debit_writer import DirectLedgerWriter
from billing.holds.epoch_start import EpochStart
from billing.holds.epochs import LostWrites, NotReady, Partitions, incompatible_message
from billing.holds.lasting import LastingHolds
from billing.holds.lease import Lease, Peers
from billing.holds.loading import Corrections, Loader, plan_lookup
from billing.holds.model import HoldSettings
from billing.holds.outbox import Outbox, Replay, Spool
from billing.holds.reconcile import Reconciler, Report
from billing.holds.recovery import ExpiredHold, Expiry, Recovery
from billing.holds.redis.client import load_library, refuse_eviction
from billing.holds.redis.connection import RedisError
from billing.holds.redis.state import RedisState
from billing.ledger.leases import end_all_leases
from billing.ledger.sums import Roller
from billing.pending import Pending
from billing.plans import DEFAULT_PLAN, Plan
from billing.work import Loops, asked_to_end, until_next_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from types import TracebackType

    from billing.holds.api import Backlog
    from billing.holds.epochs import Partition
    from billing.holds.redis.client import RedisClient
    from billing.holds.redis.layout import Keyspace
    from billing.principals import Principal

logger = logging.getLogger(__name__)


# From one round's beginning to the next.
RELAY_INTERVAL_S: Final = 0.5
# At least, between the end of a round that took long and the next one.
RELAY_PAUSE_S: Final = 0.05
TEND_INTERVAL_S: Final = 1.0
TEND_TIMEOUT_S: Final = 2.0
SWEEP_INTERVAL_S: Final = 5.0
RESUBSCRIBE_S: Final = 0.2


@dataclass(kw_only=True, eq=False)
class Upkeep:
    """The engine's loops. `sweep_now` makes the next sweep begin at once."""

    partitions: Partitions
    epoch_start: EpochStart
    recovery: Recovery
    replay: Replay
    backlog: Backlog
    cache: PrincipalCache
    change_notifier: RedisChangeNotifier
    pending: Pending
    sweep_now: asyncio.Event = field(default_factory=asyncio.Event)

    async def join(self, partition: Partition) -> bool:
        """Take part in a partition's epoch; return whether it is open. Raises `NotReady`."""
        try:
            return await self.epoch_start.join(partition)
        except LostWrites as error:
            logger.error("%s: a new epoch begins", error)
            await self.partitions.renew(partition, error.epoch)
            return False

    async def relay(self) -> None:
        """Publish pending changes as they are found, and note what was published."""
        clock, changes = asyncio.get_running_loop().time, self.pending.changes
        late = True
        while not asked_to_end():
            found, begun_s = late or changes.is_set(), clock()
            changes.clear()
            try:
                await (self.change_notifier.relay() if found else self.change_notifier.note())
            except (StoreError, TimeoutError) as error:
                logger.info("relay: %s", error)
            late = clock() - begun_s > RELAY_INTERVAL_S - RELAY_PAUSE_S
            if late:
                await asyncio.sleep(RELAY_PAUSE_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(until_next_s(RELAY_INTERVAL_S, RELAY_PAUSE_S)):
                    await changes.wait()

    async def tend(self) -> None:
        """Keep up with epochs and the backlog, each second and at once in a new epoch."""
        while not asked_to_end():
            with suppress(TimeoutError):
                async with asyncio.timeout(until_next_s(TEND_INTERVAL_S)):
                    await self.partitions.renewal.wait()
            self.partitions.renewal.clear()
            await asyncio.gather(self._refresh_ledger(), self.backlog.refresh(), *map(self._tend, self.partitions.all))

    async def _refresh_ledger(self) -> None:
        try:
            async with asyncio.timeout(TEND_TIMEOUT_S):
                await self.partitions.refresh_ledger()
        except (DatabaseError, TimeoutError) as error:
            logger.info("the ledger can't be read: %s", error)

    async def _tend(self, partition: Partition) -> None:
        """Keep up with a partition's epoch; a server that is away does not keep the others' waiting."""
        try:
            async with asyncio.timeout(TEND_TIMEOUT_S):
                current = partition.epoch is not None and await self.partitions.is_current(partition)
                if not current or partition.has_quarantined or partition.quarantined:
                    await self.join(partition)
                if not current:
                    await self.backlog.refresh()
        except (StoreError, TimeoutError) as error:
            logger.info("partition %d: %s: %s", partition.number, type(error).__name__, error)

    async def sweep(self) -> None:
        """Sweep the journals: at once when this gateway begins, when another one has died, and when others took this
        one for dead."""
        at_once = True
        while not asked_to_end():
            try:
                await self.replay.run()
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
        """Wait for the next sweep; return whether it is for a reason."""
        try:
            async with asyncio.timeout(until_next_s(SWEEP_INTERVAL_S)):
                await self.sweep_now.wait()
        except TimeoutError:
            return False
        self.sweep_now.clear()
        return True

    async def subscribe(self, subscribed: asyncio.Event) -> None:
        """Drop principals from memory as their changes are published; `subscribed` is set once that has begun."""

        def begun() -> None:
            self.cache.clear()
            self.cache.subscribed = True
            subscribed.set()

        while not asked_to_end():
            try:
                async for message in self.partitions.redis.client.listen(self.partitions.redis.keyspace.channel, begun):
                    self.cache.drop(message.decode())
            except RedisError as error:
                logger.info("%s; no principal is served from memory until it stands again", error)
            finally:
                self.cache.subscribed = False
            await asyncio.sleep(RESUBSCRIBE_S)


# The time for a process that ends to settle the rest in the stores.
LAST_S: Final = 1.0
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """What an engine is made from. `load_principal` reads the principal of a key's digest from Postgres."""

    gateway_id: str
    database: Database
    client: RedisClient
    keyspace: Keyspace
    plans: Mapping[str, Plan]
    load_principal: Callable[[bytes], Awaitable[Principal | None]]
    settings: EngineSettings = field(default_factory=EngineSettings)


class Engine:
    """Runs everything that one gateway process needs to hold and settle."""

    def __init__(self, parts: EngineParts) -> None:
        self._settings = settings = parts.settings
        self.gateway_id, self.keyspace, database = parts.gateway_id, parts.keyspace, parts.database
        self._database = database
        self.redis = redis = RedisState(parts.client, parts.keyspace)
        self.loops = loops = Loops()
        self.roller = Roller(database, self.gateway_id)
        self.cache = PrincipalCache(parts.load_principal, settings.cache, time.monotonic)
        self._sweep_now = asyncio.Event()
        self.pending = Pending(database)
        self.peers = peers = Peers(database, self.gateway_id, settings.lease_s)
        self.lease = Lease(
            peers,
            stall_s=settings.stall_s,
            sweep_now=self._sweep_now.set,
            on_failure=partial(loops.failed, "lease"),
        )
        plan_of = plan_lookup(parts.plans, settings.default_plan)
        self.partitions = partitions = Partitions(database, redis, peers)
        self.corrections = Corrections(partitions, plan_of)
        self.outbox = Outbox(
            self.corrections,
            partial(loops.failed, "outbox"),
            batch_rows=settings.ledger_batch_rows,
            flush_s=settings.ledger_flush_s,
        )
        self.loader = Loader(database, redis, plan_of, self.outbox.flush, wait_s=settings.holds.admission_wait_s)
        self.change_notifier = RedisChangeNotifier(
            partitions, self.loader, self.corrections, self.cache, partial(loops.failed, "relay")
        )
        self.reconciler = Reconciler(partitions, self.loader, self.corrections)
        self._make_holds()

    def _make_holds(self) -> None:
        """Make what admits and settles, and what takes part in epochs and sweeps."""
        settings, corrections, partitions = self._settings, self.corrections, self.partitions
        running = RunningHolds(partitions, settings.holds)
        self.direct_writer = DirectLedgerWriter(
            corrections,
            running,
            partial(self.loops.failed, "direct_writer"),
            batch_rows=settings.ledger_batch_rows,
            timeout_s=settings.holds.ledger_timeout_s,
        )
        self.replay = Replay(self.outbox, self._database)
        expiry = Expiry(corrections, self.lease.renew, settings.expired_hold)
        self.lasting = LastingHolds(corrections, running, self.gateway_id, self.pending)
        self.epoch_start = EpochStart(
            gateway_id=self.gateway_id,
            partitions=partitions,
            corrections=corrections,
            loader=self.loader,
            running=running,
            outbox=self.outbox,
            direct=self.direct_writer,
            replay=self.replay,
            expiry=expiry,
            lasting=self.lasting,
        )
        self.holds = Holds(
            self._database,
            StateRepair(partitions, self.epoch_start, self.loader),
            running,
            self.outbox,
            self.direct_writer,
            gateway_id=self.gateway_id,
            settings=settings.holds,
        )
        self.recovery = Recovery(
            gateway_id=self.gateway_id,
            partitions=partitions,
            corrections=corrections,
            running=running,
            outbox=self.outbox,
            expiry=expiry,
            find_lost=self.holds.find_lost,
        )
        self.upkeep = Upkeep(
            partitions=partitions,
            epoch_start=self.epoch_start,
            recovery=self.recovery,
            replay=self.replay,
            backlog=self.holds.backlog,
            cache=self.cache,
            change_notifier=self.change_notifier,
            pending=self.pending,
            sweep_now=self._sweep_now,
        )

    def locked_accounts(self) -> frozenset[str]:
        """Return accounts that wait, with their debits or for this epoch, because their rows in Postgres are locked."""
        return self.outbox.long_locked.union(*(partition.quarantined for partition in self.partitions.all))

    def plans_changed(self) -> None:
        """Drop what was made from plans that are no longer in force: principals, and what their counters are."""
        self.cache.clear()
        self.reconciler.plans_changed()

    async def __aenter__(self) -> Engine:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, *, shared_work: bool = True) -> None:
        """Take a lease, agree on every partition's epoch and start what runs beside; of what any gateway may do for all
        only with `shared_work`. Waits a bounded time for other gateways to join. Raises `DatabaseError` or `NotReady`
        where a store is away, or gateways live that this one can't run beside, `RedisUnfit` where Redis may evict."""
        load_library()  # for listening to Redis: not once requests wait for the event loop
        await refuse_eviction(self.redis.client)
        await self._wait_for_incompatible_peers()
        await self.lease.renew()
        await self.partitions.refresh_ledger()
        self.outbox.spool = self._open_spool()
        self.loops.count("lease")
        self.lease.start()
        try:
            await self._begin()
            if shared_work:
                self.loops.start("roller", self.roller.run)
                self.loops.start("lasting", self.lasting.run)
                self.loops.start("sweep", self.upkeep.sweep)
        except BaseException:  # also cancelled: what began is ended, and it is raised
            await self._stop_tasks()
            await self._end_lease()
            raise

    async def _stop_tasks(self) -> None:
        await self.loops.stop()
        await self.change_notifier.stop()
        await self.partitions.stop()
        await self.lease.stop()

    async def _wait_for_incompatible_peers(self) -> None:
        """Wait for gateways that this one can't run beside: they may be ending, or not be known to be dead yet. Waits
        without a lease, for those would wait for whoever has one before they open an epoch. Raises `DatabaseError`,
        `NotReady`."""
        others = await self.peers.of_other_layouts()
        for _ in range(START_ATTEMPTS):
            if not others:
                return
            await asyncio.sleep(START_PAUSE_S)
            await self.peers.refresh()
            others = await self.peers.of_other_layouts()
        if others:
            raise NotReady(incompatible_message(others))

    def _open_spool(self) -> Spool | None:
        folder = self._settings.spool_folder
        try:
            return Spool(folder, self.gateway_id) if folder is not None else None
        except OSError as error:
            logger.warning("debits have no second copy on this machine: %s", error)
            return None

    async def _begin(self) -> None:
        for _ in range(START_ATTEMPTS):
            if all([await self.upkeep.join(partition) for partition in self.partitions.all]):
                break
            await asyncio.sleep(START_PAUSE_S)
        await self.holds.backlog.refresh()
        subscribed = asyncio.Event()
        self.loops.start("outbox", self.outbox.run)
        self.loops.start("direct_writer", self.direct_writer.run)
        self.loops.start("tend", self.upkeep.tend)
        self.loops.start("pending", self.pending.run)
        self.loops.start("relay", self.upkeep.relay)
        self.loops.start("subscribe", partial(self.upkeep.subscribe, subscribed))
        async with asyncio.timeout(START_ATTEMPTS * START_PAUSE_S):
            await subscribed.wait()

    async def stop(self, timeout_s: float = 10.0) -> bool:
        """Finish settlements, write what waits, give the lease back. Return whether everything was written in time;
        what is still being worked for then is charged as it is held."""
        done = await self.holds.drain(timeout_s)
        if not done:
            await self.holds.resolve_rest(LAST_S)
        await self._stop_tasks()
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

    async def reconcile_once(self, *, fix: bool) -> Report:
        """Write what was left in the journals, then compare. With `fix` begin a new epoch then, also if there are no
        differences or they can't be looked for: what is wrong may be that Redis lacks what it is compared in.

        Raises `StoreError`, `TimeoutError`.
        """
        try:
            for partition in self.partitions.all:
                await self.partitions.ensure(partition)
                await self.recovery.sweep(partition, others=False)
            return await self.reconciler.run()
        finally:
            if fix:
                await self.reconciler.fix()
