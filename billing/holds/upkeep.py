"""What runs beside the hot path: following epochs and changes, sweeping journals, listening to changes.

No loop is ever dead unnoticed: a failure is logged with its traceback once, counted, shown as trouble until the loop
has run well for a while, and the loop begins again after a pause that grows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from billing.database.connection import DatabaseError
from billing.errors import StoreError
from billing.holds.partition import LostWrites
from billing.holds.redis.connection import RedisError

if TYPE_CHECKING:
    from billing.holds.admission import Backlog
    from billing.holds.cache import PrincipalCache
    from billing.holds.changes import RedisChangeNotifier
    from billing.holds.epoch_start import EpochStart
    from billing.holds.epochs import Partitions
    from billing.holds.outbox import Replay
    from billing.holds.partition import Partition
    from billing.holds.recovery import Recovery

logger = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 10.0
# A loop that has run for as long since its failure is well again, and its pauses are short again.
WELL_AFTER_S: Final = 60.0
CANCEL_AGAIN_S: Final = 1.0
CANCEL_ATTEMPTS: Final = 10


class Loops:
    """Runs loops by name. `failures` counts how often each has failed: 0 from its start on, so that a metric of it can
    rise; `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.failures: Counter[str] = Counter()
        self._failed_s: dict[str, float] = {}
        self._last_failures: dict[str, str] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run what `loop` makes, anew each time that it fails or ends by itself."""
        self.count(name)
        self.tasks[name] = asyncio.create_task(self._keep(name, loop), name=name)

    def count(self, name: str) -> None:
        """Count the failures of a loop, of one that a thread runs as well: 0 so far."""
        self.failures.setdefault(name, 0)

    async def _keep(self, name: str, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        pause_s = FIRST_PAUSE_S
        while not asked_to_end():
            begun_s = self.clock()
            try:
                await loop()
                if asked_to_end():
                    return
                self.failed(name, RuntimeError("it ended by itself"))
            except Exception as error:  # any exception: nothing else would notice that the loop has ended
                if asked_to_end():
                    return
                self.failed(name, error)
            if self.clock() - begun_s >= WELL_AFTER_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MOST_PAUSE_S)

    def failed(self, name: str, error: BaseException) -> None:
        """Record the failure of a loop, which is restarted."""
        self.failures[name] += 1
        self._failed_s[name] = self.clock()
        failure = repr(error)
        new = self._last_failures.get(name) != failure
        self._last_failures[name] = failure
        logger.error("the %s loop failed and is restarted: %s", name, failure, exc_info=error if new else None)

    def troubled(self) -> list[str]:
        """Return names of loops that have failed of late, sorted."""
        now_s = self.clock()
        return sorted(name for name, failed_s in self._failed_s.items() if now_s - failed_s < WELL_AFTER_S)

    async def stop(self, *names: str) -> None:
        """End loops, all of them where none is named. Asked more than once: a loop whose cancellation was swallowed
        notices it at the end of its turn (`asked_to_end`), and that may be long."""
        found = [self.tasks.pop(name) for name in names or tuple(self.tasks) if name in self.tasks]
        running = set(found)
        for _ in range(CANCEL_ATTEMPTS):
            if not running:
                return
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)
        if running:
            logger.error("%d loops do not end", len(running))


def asked_to_end() -> bool:
    """Return whether this task was cancelled, and what it waited for has swallowed that: a loop that went on would not
    end.

    The client library for Redis writes each command under `asyncio.wait_for`, which before Python 3.12 answers with the
    result when it is interrupted at the moment when there is one. An error while a library cleans up after an
    interruption takes its place, too.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


# From one round's beginning to the next: a change that its maker could not publish takes effect within a second.
RELAY_INTERVAL_S: Final = 0.5
# At least, between the end of a round that took long and the next one.
RELAY_PAUSE_S: Final = 0.05
TEND_INTERVAL_S: Final = 1.0
TEND_TIMEOUT_S: Final = 2.0
SWEEP_INTERVAL_S: Final = 2.0
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
        """Publish pending changes."""
        clock = asyncio.get_running_loop().time
        while not asked_to_end():
            begun_s = clock()
            try:
                await self.change_notifier.relay()
            except (StoreError, TimeoutError) as error:
                logger.info("relay: %s", error)
            await asyncio.sleep(max(RELAY_PAUSE_S, begun_s + RELAY_INTERVAL_S - clock()))

    async def tend(self) -> None:
        """Keep up with epochs and the backlog, each second and at once in a new epoch."""
        while not asked_to_end():
            with suppress(TimeoutError):
                async with asyncio.timeout(TEND_INTERVAL_S):
                    await self.partitions.renewal.wait()
            self.partitions.renewal.clear()
            await asyncio.gather(self._refresh_ledger(), *map(self._tend, self.partitions.all))
            await self.backlog.refresh()

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
            async with asyncio.timeout(SWEEP_INTERVAL_S):
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
