"""Periodic work: rounds that one loop makes again and again, in every gateway or, by a lease, in one of all.

A store that is away is waited for, longer after each failure. Whatever else a round raises ends the loop:
`billing.holds.engine.Loops` logs and counts it, shows it as trouble and begins the loop anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from billing.database.connection import queries
from billing.errors import MetergateError, StoreError

if TYPE_CHECKING:
    from billing.database.connection import Database

logger = logging.getLogger(__name__)

# Longest wait after failures, where rounds are closer together.
MOST_BACKOFF_S: Final = 5.0
# Of the time between rounds, so that whoever has the lease does not wait for itself.
_LEASED_SHARE: Final = 0.9
TAKE_LEASE: Final = queries("billing.ledger")("jobs_take")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do a job in one gateway of all; `owner` names this process."""

    database: Database
    name: str
    owner: str

    async def take(self, seconds: float) -> bool:
        """Return whether this process has it for so long. Raises `DatabaseError`."""
        return await self.database.row(TAKE_LEASE, self.name, self.owner, seconds) is not None


# Rounds of one process fall together, so that it wakes once for many; those of several processes do not.
_PHASE_MS: Final = random.randrange(60_000)  # noqa: S311
# Of the time between rounds: the least between the end of one and the next.
_LEAST_SHARE: Final = 0.25
# Rounds that are further apart are few.
_TOGETHER_S: Final = 15.0


def until_next_s(every_s: float, least_s: float | None = None) -> float:
    """Return how long to wait for the next round, of rounds that begin every `every_s` seconds: at least `least_s`, or
    a share of that."""
    every_ms, now_ms = round(every_s * 1000), round(asyncio.get_running_loop().time() * 1000)
    if every_ms < 1 or every_s > _TOGETHER_S:
        return every_s
    left_ms = every_ms - (now_ms + _PHASE_MS) % every_ms
    least_ms = every_ms * _LEAST_SHARE if least_s is None else least_s * 1000
    return (left_ms if left_ms >= least_ms else left_ms + every_ms) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Periodic:
    """A round every `every_s` seconds, the first at once unless it is `delayed`; `woken` begins the next one early.
    Where `due`, which is not asked then, says that there is nothing to do, neither the lease is taken nor the round
    made. `otherwise` is called
    where another gateway has the lease, and after failures; `close` at the end."""

    name: str
    every_s: float
    round: Callable[[], Awaitable[object]]
    lease: Lease | None = None
    delayed: bool = False
    woken: asyncio.Event | None = None
    due: Callable[[], Awaitable[bool]] | None = None
    otherwise: Callable[[], None] | None = None
    close: Callable[[], Awaitable[None]] | None = None
    expected: tuple[type[MetergateError], ...] = (StoreError,)

    async def run(self) -> None:
        """Make rounds for ever."""
        try:
            await self._run()
        finally:
            if self.close is not None:
                await self.close()

    async def _run(self) -> None:
        failures = 0
        if self.delayed:
            await asyncio.sleep(self.every_s)
        while True:
            woken = self.woken is not None and self.woken.is_set()
            if self.woken is not None:
                self.woken.clear()
            try:
                if not woken and self.due is not None and not await self.due():
                    pass
                elif self.lease is None or await self.lease.take(self.every_s * _LEASED_SHARE):
                    await self.round()
                elif self.otherwise is not None:
                    self.otherwise()
                failures = 0
                await self._pause()
            except self.expected as error:
                logger.info("%s waits: %s", self.name, error)
                if self.otherwise is not None:
                    self.otherwise()
                await asyncio.sleep(self._backoff_s(failures))
                failures += 1

    def _backoff_s(self, failures: int) -> float:
        """Return how long to wait after one more failure: up to twice as long each time, and never in step."""
        most_s = max(self.every_s, MOST_BACKOFF_S)
        return min(most_s, self.every_s * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0)  # noqa: S311

    async def _pause(self) -> None:
        if self.woken is None:
            await asyncio.sleep(until_next_s(self.every_s))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(until_next_s(self.every_s)):
                await self.woken.wait()


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


Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Work by name. A caller that is cancelled does not cancel the work for the others."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Result]] = {}

    async def run(self, name: Hashable, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return the result of the run under way, or of one begun now. Raises what the work raises."""
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.ensure_future(_awaited(work))
            task.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(task)

    def _ended(self, name: Hashable, task: asyncio.Task[Result]) -> None:
        del self._running[name]
        if not task.cancelled():
            task.exception()  # retrieved here, though every caller may have been cancelled


async def _awaited(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()
