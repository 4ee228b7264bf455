"""Keeps one server running: started, watched, started again when it dies, stopped."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from gateway.embedded import process
from gateway.embedded.errors import ServerFailed
from gateway.embedded.process import Program

RESTART_DELAY_S = 0.1  # before the second restart in a row, doubled for each one more; the first is at once
RESTART_DELAY_LIMIT_S = 5.0
STABLE_AFTER_S = 30.0  # a server that ran as long begins anew with its delays
FIRST_START_ATTEMPTS = 3  # what is left of a Postgres killed together with its supervisor can need a moment to go
FIRST_START_DELAY_S = 0.3

_log = logging.getLogger(__name__)


class Server(Protocol):
    """What `Postgres` and `Redis` have in common."""

    @property
    def program(self) -> Program: ...

    async def prepare(self, report: Callable[[str], None]) -> None: ...

    async def clear(self, report: Callable[[str], None]) -> None: ...

    def ready(self, pid: int) -> bool: ...


class Keeper:
    """One server, from `start` to `stop`."""

    def __init__(self, server: Server, report: Callable[[str], None]) -> None:
        self._server, self._report = server, report
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once the server is ready. Raises ServerFailed after FIRST_START_ATTEMPTS; then nothing runs."""
        await self._server.prepare(self._report)
        self._report(f"Starting {self._server.program.name} ...")
        for attempt in range(1, FIRST_START_ATTEMPTS + 1):
            try:
                await self._start_once()
                break
            except ServerFailed:
                if attempt == FIRST_START_ATTEMPTS:
                    raise
                await asyncio.sleep(FIRST_START_DELAY_S)
        self._watch = asyncio.create_task(self._restart_for_ever(), name=f"watch {self._server.program.name}")

    async def stop(self) -> None:
        """Stop the server, if it runs. May be called in any state."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        if self._process is not None:
            await process.stop(self._server.program, self._process)

    async def _start_once(self) -> None:
        await self._server.clear(self._report)
        self._process = await process.start(self._server.program, self._server.ready)

    async def _restart_for_ever(self) -> None:
        name, delay_s = self._server.program.name, 0.0
        while self._process is not None:
            started = time.monotonic()
            code = await self._process.wait()
            if time.monotonic() - started >= STABLE_AFTER_S:
                delay_s = 0.0
            _log.warning("%s ended (code %d); starting it again in %.1f s", name, code, delay_s)
            while True:
                await asyncio.sleep(delay_s)
                delay_s = min(max(delay_s * 2, RESTART_DELAY_S), RESTART_DELAY_LIMIT_S)
                try:
                    await self._start_once()
                except (ServerFailed, OSError) as error:
                    _log.error("%s (next attempt in %.1f s)", error, delay_s)
                else:
                    _log.warning("%s runs again", name)
                    break
