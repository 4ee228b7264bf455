"""The engine: everything that one gateway process runs to hold and settle, wired and started together.

    async with Engine(...) as engine:
        engine.holds, engine.cache, engine.announcer

Beside the hot path it keeps its lease, and runs the outbox, the rollups' roller, a relay each second (epochs, changes
that were not told), a sweep of the journals, and the subscription to changes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal

from billing.holds.announce import Announcer
from billing.holds.batcher import Item
from billing.holds.cache import CacheSettings, PrincipalCache
from billing.holds.connection import Link, RedisError
from billing.holds.keyspace import Keyspace
from billing.holds.loader import Loader, LostWrites, plan_lookup
from billing.holds.outbox import Outbox
from billing.holds.partitions import NotReady, Partition, Partitions
from billing.holds.reconcile import Reconciler
from billing.holds.recovery import Recovery
from billing.holds.service import Holds, HoldSettings
from billing.holds.sync import Corrections
from billing.ledger.postgres import Database, DatabaseError, queries
from billing.ledger.rollups import Roller
from billing.plans import DEFAULT_PLAN, Plan
from billing.principals import Principal
from billing.quotas import Quota

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
RENEW_LEASE: Final = _sql("gateways_renew")
END_LEASE: Final = _sql("gateways_end")
END_ALL_LEASES: Final = _sql("gateways_end_all")
READ_ACCOUNT: Final = _sql("read_account_principal")

RELAY_INTERVAL_S: Final = 1.0
UNBROKEN_SHARE: Final = 0.6
"""Of a lease: not having renewed for longer counts as an outage of Postgres. Others may have missed as much and an
interval more on either side, so that their leases have lapsed although they live."""
TEND_TIMEOUT_S: Final = 2.0
SWEEP_INTERVAL_S: Final = 2.0
RESUBSCRIBE_S: Final = 0.2
START_ATTEMPTS: Final = 50
START_PAUSE_S: Final = 0.2
CANCEL_AGAIN_S: Final = 1.0
CANCEL_ATTEMPTS: Final = 10


class Lease:
    """This gateway's sign of life in Postgres, and since when it has stood without a gap."""

    def __init__(self, database: Database, gateway_id: str, lease_s: float) -> None:
        self._database = database
        self._gateway_id = gateway_id
        self._lease_s = lease_s
        self._since: float | None = None
        self._renewed = 0.0

    async def renew(self) -> None:
        """Raises `DatabaseError`."""
        await self._database.execute(RENEW_LEASE, self._gateway_id, self._lease_s)
        now = time.monotonic()
        if self._since is None or now - self._renewed > self._lease_s * UNBROKEN_SHARE:
            self._since = now
        self._renewed = now

    def stands(self) -> bool:
        """Whether the leases of others can be judged: Postgres has been there long enough for all of them to renew.

        After Postgres was away every lease has lapsed, and a hold must not be taken from a gateway that lives.
        """
        now = time.monotonic()
        unbroken = now - self._renewed <= self._lease_s * UNBROKEN_SHARE
        return self._since is not None and unbroken and now - self._since >= self._lease_s

    async def end(self) -> None:
        """Raises `DatabaseError`."""
        await self._database.execute(END_LEASE, self._gateway_id)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine beside the hot path's own."""

    holds: HoldSettings = field(default_factory=HoldSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    lease_s: float = 5.0
    hold_ttl_s: float = 900.0
    expired_hold: Literal["void", "input"] = "void"
    default_plan: str = DEFAULT_PLAN
    ledger_batch_rows: int = 500
    ledger_flush_s: float = 0.2


class Engine:
    """One gateway process's part in metering. `load_principal` reads the principal of a key's digest from Postgres."""

    def __init__(
        self,
        database: Database,
        link: Link,
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
        self._lease = Lease(database, gateway_id, settings.lease_s)
        self.partitions = Partitions(database, link, keyspace, gateway_id, self._prepare)
        self.corrections = Corrections(database, link, keyspace, self._account_quotas)
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
            gateway_id,
            expired_hold=settings.expired_hold,
            hold_ttl_s=settings.hold_ttl_s,
        )
        self.cache = PrincipalCache(load_principal, settings.cache, time.monotonic)
        self.announcer = Announcer(database, link, keyspace, self.partitions, self.loader, self.corrections, self.cache)
        self.reconciler = Reconciler(database, link, keyspace, self.partitions, self.loader, self.corrections)
        self.roller = Roller(database, gateway_id)
        self._tasks: list[asyncio.Task[None]] = []

    async def _prepare(self, partition: Partition, epoch: int) -> bool:
        return await self.recovery.prepare(partition, epoch)

    async def _account_quotas(self, account_id: str) -> tuple[Quota, ...]:
        row = await self._database.row(READ_ACCOUNT, account_id)
        return self.loader.account_quotas(row["plan"], row["quotas"]) if row is not None else ()

    def _submit(self, partition: Partition, item: Item) -> None:
        self.holds.submit(partition, item)

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
        gateways to join; raises `DatabaseError` or `NotReady` where a store is away."""
        await self._lease.renew()
        for _ in range(START_ATTEMPTS):
            if all([await self._join(partition) for partition in self.partitions.all]):
                break
            await asyncio.sleep(START_PAUSE_S)
        await self.holds.backlog.look()
        subscribed = asyncio.Event()
        loops = (
            self._keep_lease(),
            self.outbox.run(),
            self.roller.run(),
            self._relay(),
            self._sweep(),
            self._subscribe(subscribed),
        )
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        async with asyncio.timeout(START_ATTEMPTS * START_PAUSE_S):
            await subscribed.wait()

    async def stop(self, timeout_s: float = 10.0) -> bool:
        """Finish settlements, write what waits, give the lease back. Whether everything was written in time."""
        done = await self.holds.drain(timeout_s)
        await self._cancel_tasks()
        if not self.holds.live:
            try:
                await self._lease.end()
            except DatabaseError as error:
                logger.info("the lease runs out by itself: %s", error)
        return done

    async def _cancel_tasks(self) -> None:
        """End what runs beside. Asked more than once: a loop whose cancellation was swallowed notices it at the end of
        its turn (`_asked_to_end`), and that may be long."""
        running = set(self._tasks)
        for _ in range(CANCEL_ATTEMPTS):
            if not running:
                return
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)
        if running:
            logger.error("%d loops of the engine do not end", len(running))

    async def end_all_leases(self) -> None:
        """End every gateway's lease; only for whoever knows that no gateway is alive. Raises `DatabaseError`."""
        await self._database.execute(END_ALL_LEASES)

    async def _join(self, partition: Partition) -> bool:
        try:
            return await self.partitions.join(partition)
        except LostWrites as error:
            logger.error("%s: a new epoch begins", error)
            await self.partitions.renew(partition, error.epoch)
            return False

    async def _keep_lease(self) -> None:
        """By itself: nothing that the relay waits for may let the lease run out."""
        while not _asked_to_end():
            await asyncio.sleep(RELAY_INTERVAL_S)
            try:
                await self._lease.renew()
            except DatabaseError as error:
                logger.info("the lease could not be renewed: %s", error)

    async def _relay(self) -> None:
        while not _asked_to_end():
            await asyncio.sleep(RELAY_INTERVAL_S)
            await asyncio.gather(*map(self._tend, self.partitions.all))
            await self.holds.backlog.look()
            try:
                await self.announcer.relay()
            except (DatabaseError, RedisError, NotReady, TimeoutError) as error:
                logger.info("relay: %s", error)

    async def _tend(self, partition: Partition) -> None:
        """Keep up with a partition's epoch; a server that is away does not keep the others' waiting."""
        try:
            async with asyncio.timeout(TEND_TIMEOUT_S):
                if partition.epoch is None or not await self.partitions.is_current(partition):
                    await self._join(partition)
        except (DatabaseError, RedisError, NotReady, TimeoutError) as error:
            logger.info("partition %d: %s: %s", partition.number, type(error).__name__, error)

    async def _sweep(self) -> None:
        while not _asked_to_end():
            await asyncio.sleep(SWEEP_INTERVAL_S)
            for partition in self.partitions.all:
                try:
                    if partition.epoch is not None:
                        await self.recovery.sweep(partition, others=self._lease.stands())
                except (DatabaseError, RedisError, NotReady, TimeoutError) as error:
                    logger.info("sweep of partition %d: %s", partition.number, error)

    async def _subscribe(self, subscribed: asyncio.Event) -> None:
        def begun() -> None:
            self.cache.clear()
            self.cache.subscribed = True
            subscribed.set()

        while not _asked_to_end():
            try:
                async for message in self._link.listen(self.keyspace.channel, begun):
                    self.cache.drop(message.decode())
            except RedisError as error:
                self.cache.subscribed = False
                logger.info("%s; no principal is served from memory until it stands again", error)
            await asyncio.sleep(RESUBSCRIBE_S)


def _asked_to_end() -> bool:
    """Whether this task was cancelled, and what it waited for has swallowed that: a loop that went on would not end.

    The client library for Redis writes each command under `asyncio.wait_for`, which before Python 3.12 answers with the
    result when it is interrupted at the moment when there is one. An error while a library cleans up after an
    interruption takes its place, too.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
