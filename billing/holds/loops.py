"""Loops: what runs beside the hot path for as long as the process does, and is started again when it fails.

This file owns that no loop is ever dead unnoticed: a failure is logged with its traceback once, counted, shown as
trouble until the loop has run well for a while, and the loop begins anew after a pause that grows.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

logger = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 10.0
WELL_AFTER_S: Final = 60.0
"""A loop that failed and has run for as long since is well again, and begins anew with its pauses."""
CANCEL_AGAIN_S: Final = 1.0
CANCEL_ATTEMPTS: Final = 10


class Loops:
    """Runs loops by name. `on_failure` is told the name of each one that failed; `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.failures: Counter[str] = Counter()
        self.on_failure: Callable[[str], None] | None = None
        self._failed_s: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run what `loop` makes, anew each time that it fails or ends by itself."""
        self.tasks[name] = asyncio.create_task(self._keep(name, loop), name=name)

    async def _keep(self, name: str, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        pause_s = FIRST_PAUSE_S
        while not asked_to_end():
            begun_s = self.clock()
            try:
                await loop()
                if asked_to_end():
                    return
                self.failed(name, RuntimeError("it ended by itself"))
            except Exception as error:  # whatever it was: nobody else would notice
                if asked_to_end():
                    return
                self.failed(name, error)
            if self.clock() - begun_s >= WELL_AFTER_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MOST_PAUSE_S)

    def failed(self, name: str, error: BaseException) -> None:
        """Note that a loop has failed and begins anew."""
        self.failures[name] += 1
        self._failed_s[name] = self.clock()
        said = repr(error)
        new = self._said.get(name) != said
        self._said[name] = said
        logger.error("the %s loop failed and begins anew: %s", name, said, exc_info=error if new else None)
        if self.on_failure is not None:
            self.on_failure(name)

    def troubled(self) -> list[str]:
        """Names of loops that have failed of late, sorted."""
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
    """Whether this task was cancelled, and what it waited for has swallowed that: a loop that went on would not end.

    The client library for Redis writes each command under `asyncio.wait_for`, which before Python 3.12 answers with the
    result when it is interrupted at the moment when there is one. An error while a library cleans up after an
    interruption takes its place, too.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
