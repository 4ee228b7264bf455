"""The engine: everything that one gateway process runs to hold and settle, wired and started together.

    async with Engine(...) as engine:
        engine.holds, engine.cache, engine.change_notifier

Each part is made from parts that were made before it. Beside the hot path it keeps its lease (`lease.py`, a thread),
and runs as loops the outbox, the ledger's own way, the rollups' roller, the care for lasting holds, and what
`upkeep.py` has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from billing.database.connection import Database, DatabaseError
from billing.holds.cache import CacheSettings, PrincipalCache
from billing.holds.changes import RedisChangeNotifier
from billing.holds.epoch_start import EpochStart
from billing.holds.hold import RunningHolds
from billing.holds.lasting import LastingHolds
from billing.holds.lease import Lease, Peers
from billing.holds.loader import Loader
from billing.holds.outbox import Outbox
from billing.holds.partition import NotReady
from billing.holds.partitions import Partitions, why_beside
from billing.holds.reconcile import Reconciler
from billing.holds.recovery import ExpiredHold, Expiry, Recovery
from billing.holds.redis.server import load_library
from billing.holds.redis.session import refuse_eviction
from billing.holds.redis.state import RedisState
from billing.holds.repairs import Corrections
from billing.holds.replay import LedgerWay, Replay
from billing.holds.service import Holds, HoldSettings
from billing.holds.spool import Spool
from billing.holds.upkeep import Loops, Upkeep
from billing.holds.windows import plan_lookup
from billing.ledger.leases import end_all_leases
from billing.ledger.reports import Roller
from billing.plans import DEFAULT_PLAN, Plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from billing.holds.redis.client import RedisClient
    from billing.holds.redis.state import Keyspace
    from billing.principals import Principal

logger = logging.getLogger(__name__)

LAST_S: Final = 1.0
"""The time for a process that ends to settle the rest in the stores."""
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
    """Runs everything that one gateway process needs to hold and settle. `load_principal` reads the principal of a
    key's digest from Postgres."""

    def __init__(
        self,
        database: Database,
        client: RedisClient,
        keyspace: Keyspace,
        plans: Mapping[str, Plan],
        load_principal: Callable[[bytes], Awaitable[Principal | None]],
        gateway_id: str,
        settings: EngineSettings | None = None,
    ) -> None:
        self._settings = settings = settings or EngineSettings()
        self._database, self._client, self.keyspace, self._gateway_id = database, client, keyspace, gateway_id
        self.redis = redis = RedisState(client, keyspace)
        self.loops = Loops()
        self.roller = Roller(database, gateway_id)
        self.cache = PrincipalCache(load_principal, settings.cache, time.monotonic)
        sweep_now = asyncio.Event()
        self.peers = peers = Peers(database, gateway_id, settings.lease_s)
        self.lease = Lease(
            database,
            gateway_id,
            peers,
            lease_s=settings.lease_s,
            stall_s=settings.stall_s,
            on_loss=sweep_now.set,
            on_judged=sweep_now.set,
            on_failure=partial(self.loops.failed, "lease"),
        )
        plan_of = plan_lookup(plans, settings.default_plan)
        self.partitions = partitions = Partitions(database, redis, peers)
        self.corrections = Corrections(database, redis, partitions, plan_of)
        self.outbox = Outbox(
            database,
            client,
            keyspace,
            partitions.of,
            self.corrections.sync,
            partial(self.loops.failed, "outbox"),
            batch_rows=settings.ledger_batch_rows,
            flush_s=settings.ledger_flush_s,
        )
        self.loader = Loader(database, redis, plan_of, self.outbox.flush, wait_s=settings.holds.admission_wait_s)
        changing = partitions, self.loader, self.corrections
        relay_failed = partial(self.loops.failed, "relay")
        self.change_notifier = RedisChangeNotifier(database, redis, *changing, self.cache, relay_failed)
        self.reconciler = Reconciler(database, redis, *changing)
        self._make_holds(sweep_now)

    def _make_holds(self, sweep_now: asyncio.Event) -> None:
        """Make what admits and settles, and what takes part in epochs and sweeps."""
        database, redis, gateway_id, settings = self._database, self.redis, self._gateway_id, self._settings
        partitions, corrections, outbox, peers = self.partitions, self.corrections, self.outbox, self.peers
        running = RunningHolds(self.keyspace, partitions, settings.holds)
        self.ledger_way = LedgerWay(
            database,
            corrections,
            running.live,
            running.spawn,
            partitions.lost_writes,
            partial(self.loops.failed, "ledger_way"),
            batch_rows=settings.ledger_batch_rows,
            timeout_s=settings.holds.ledger_timeout_s,
        )
        self.replay = Replay(database, outbox)
        expiry = Expiry(database, redis, corrections, self.lease.renew, settings.expired_hold)
        self.lasting = LastingHolds(database, redis, partitions, corrections, running, gateway_id)
        self.epoch_start = EpochStart(
            database,
            redis,
            partitions,
            peers,
            gateway_id,
            self.loader,
            outbox,
            corrections,
            running,
            self.ledger_way,
            self.replay,
            expiry,
            self.lasting,
        )
        self.holds = Holds(
            database,
            self.keyspace,
            partitions,
            self.epoch_start,
            self.loader,
            outbox,
            running,
            self.ledger_way,
            gateway_id,
            settings.holds,
        )
        self.recovery = Recovery(
            database, redis, outbox, corrections, running, self.holds.doubt, gateway_id, peers, expiry
        )
        self.upkeep = Upkeep(
            redis,
            partitions,
            self.epoch_start,
            self.recovery,
            self.replay,
            self.holds.backlog,
            self.cache,
            self.change_notifier,
            sweep_now,
        )

    def locked_accounts(self) -> frozenset[str]:
        """Return accounts that wait, with their debits or for this epoch, because their rows in Postgres are locked."""
        return self.outbox.locked.union(*(partition.holding_back for partition in self.partitions.all))

    def plans_changed(self) -> None:
        """Have principals read anew, and what their accounts' counters are: other plans are in force."""
        self.cache.clear()
        self.reconciler.plans_changed()

    @property
    def gateway_id(self) -> str:
        """Return the name of this process among the gateways."""
        return self._gateway_id

    async def __aenter__(self) -> Engine:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, *, shared_work: bool = True) -> None:
        """Take a lease, agree on every partition's epoch and start what runs beside, of what any gateway may do for all
        only with `shared_work`. Waits a bounded time for other gateways to join; raises `DatabaseError` or `NotReady`
        where a store is away, or gateways live that this one can't run beside, `RedisUnfit` where Redis may evict."""
        load_library()  # for listening to Redis: not once requests wait for the event loop
        await refuse_eviction(self._client)
        await self._wait_for_other_layouts()
        await self.lease.renew()
        await self.partitions.look_at_ledger()
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

    async def _wait_for_other_layouts(self) -> None:
        """Wait for gateways that this one can't run beside: they may be ending, or not be known to be dead yet. Waits
        without a lease, for those would wait for whoever has one before they open an epoch. Raises `DatabaseError`,
        `NotReady`."""
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
            if all([await self.upkeep.join(partition) for partition in self.partitions.all]):
                break
            await asyncio.sleep(START_PAUSE_S)
        await self.holds.backlog.look()
        subscribed = asyncio.Event()
        self.loops.start("outbox", self.outbox.run)
        self.loops.start("ledger_way", self.ledger_way.run)
        self.loops.start("tend", self.upkeep.tend)
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
