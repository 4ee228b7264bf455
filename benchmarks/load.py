"""The load generator: keep-alive connections on `asyncio.Protocol`, requests made beforehand, every answer checked.

    saturate   a closed loop: every connection asks again as soon as it has its answer
    pace       an open loop: requests leave at a fixed rate, whether or not earlier ones were answered
    stream     a closed loop of server-sent event streams, begun one after the other
    crowd      very many slow streams at once
    one_each   a closed loop with a new connection for each request
    long       a few long streams at once

A run ends when every request that was sent has its answer, so that a ledger can be compared with the count.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks import wire
from benchmarks.connection import CHAT, Connection, Shape, Tally

Address = tuple[str, int]

CONNECTIONS_MAX: Final = 512
DRAIN_S: Final = 20.0


class LoadError(Exception):
    """The generator could not do what it was asked: the figures of this run would mean nothing."""


@dataclass(slots=True)
class Run:
    """One run against one address. `on_begin` and `on_end` are called around what is measured;
    `settle_s` is how long the target has for its new connections before it is asked."""

    address: Address
    requests: Sequence[bytes]
    on_begin: Callable[[], None] = lambda: None
    on_end: Callable[[], None] = lambda: None
    streaming: bool = False
    exact: bool = True
    shape: Shape = CHAT
    settle_s: float = 0.0
    most_connections: int = CONNECTIONS_MAX
    tally: Tally = field(default_factory=Tally)
    _connections: list[Connection] = field(default_factory=list)
    _next: Iterator[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._next = itertools.cycle(self.requests)

    async def saturate(self, connections: int, warm_s: float, measure_s: float) -> Tally:
        """Ask with `connections` at once for `warm_s`, then measure for `measure_s`."""
        await self._open(connections)
        stopping = False

        def again(connection: Connection, problem: str | None) -> None:
            self.tally.ended(connection, problem)
            if not stopping and problem is None:
                connection.ask(next(self._next), self.streaming, again)

        for connection in self._connections:
            connection.ask(next(self._next), self.streaming, again)
        await asyncio.sleep(warm_s)
        self._begin()
        await asyncio.sleep(measure_s)
        self._stop()
        stopping = True
        await self._drain()
        return self.tally

    async def once(self, connections: int) -> Tally:
        """Send every request once, with `connections` at once."""
        await self._open(connections)
        left = deque(self.requests)

        def again(connection: Connection, problem: str | None) -> None:
            self.tally.ended(connection, problem)
            if left and problem is None:
                connection.ask(left.popleft(), self.streaming, again)

        self._begin()
        for connection in self._connections[: len(left)]:
            connection.ask(left.popleft(), self.streaming, again)
        await self._drain()
        self._stop()
        return self.tally

    async def pace(
        self, rate: float, warm_s: float, measure_s: float, big: bytes | None = None, big_every_s: float = 0.5
    ) -> Tally:
        """Send `rate` requests a second; beside them `big` every `big_every_s`, whose own latency is not counted."""
        await self._open(max(8, round(rate / 10)))
        free = deque(self._connections)

        def ended(connection: Connection, problem: str | None) -> None:
            self.tally.ended(connection, problem)
            free.append(connection)

        side = asyncio.ensure_future(self._beside(big, big_every_s)) if big is not None else None
        start = time.perf_counter()
        for number in range(round(rate * (warm_s + measure_s))):
            due = start + number / rate
            while (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            if not self.tally.measuring and due - start >= warm_s:
                self._begin()
            if not free:
                free.append(await self._connect())
            self.tally.late_s.append(time.perf_counter() - due)
            free.popleft().ask(next(self._next), self.streaming, ended)
        if side is not None:
            side.cancel()
            await asyncio.gather(side, return_exceptions=True)
        await self._drain()
        self._stop()
        return self.tally

    async def one_each(self, at_once: int, warm_s: float, measure_s: float) -> Tally:
        """As `saturate`, but each request has a connection of its own, which ends with its answer."""
        stopping = False

        async def ask() -> None:
            while not stopping and not self.tally.errors:
                connection = await self._connect()
                over = asyncio.Event()

                def ended(connection: Connection, problem: str | None, over: asyncio.Event = over) -> None:
                    self.tally.ended(connection, problem)
                    over.set()

                connection.ask(next(self._next), self.streaming, ended)
                await over.wait()
                connection.close()
                self._connections.remove(connection)

        tasks = [asyncio.ensure_future(ask()) for _ in range(at_once)]
        await asyncio.sleep(warm_s)
        self._begin()
        await asyncio.sleep(measure_s)
        self._stop()
        stopping = True
        await asyncio.gather(*tasks)
        return self.tally

    async def long(self, streams: int, on_rest: Callable[[], None]) -> Tally:
        """So many long streams at once; `on_rest` is called when all but the end of each has come."""
        await self._open(streams)
        self._begin()
        for connection in self._connections:
            connection.ask(next(self._next), True, self.tally.ended)
        deadline = time.perf_counter() + DRAIN_S + wire.LONG_EVENTS / wire.LONG_AT_ONCE * wire.LONG_PAUSE_S
        while not all(connection.has_come_to(wire.LONG_LAST_WORD) for connection in self._connections):
            if self.tally.errors or self.tally.whole or time.perf_counter() > deadline:
                raise LoadError(f"{streams} streams never came to their end at once: {dict(self.tally.errors)}")
            await asyncio.sleep(0.02)
        on_rest()
        await self._drain(DRAIN_S + wire.LONG_REST_S)
        self._stop()
        return self.tally

    async def stream(self, streams: int, measure_s: float) -> Tally:
        """Streams at once, begun one after the other within one stream's length; all that ended are measured."""
        await self._open(streams)
        stopping = False

        def again(connection: Connection, problem: str | None) -> None:
            self.tally.ended(connection, problem)
            if not stopping and problem is None:
                connection.ask(next(self._next), True, again)

        self._begin()
        for connection in self._connections:
            connection.ask(next(self._next), True, again)
            await asyncio.sleep(wire.STREAM_CHUNKS * wire.STREAM_PAUSE_S / streams)
        await asyncio.sleep(measure_s)
        stopping = True
        await self._drain()
        self._stop()
        return self.tally

    async def crowd(self, streams: int, begun_per_s: float, on_full: Callable[[], None]) -> Tally:
        """So many streams at once, one on each connection; `on_full` is called when all of them run.

        Raises `LoadError` where the first ends before the last has begun.
        """
        await self._open(streams)
        self._begin()
        start = time.perf_counter()
        for number, connection in enumerate(self._connections):
            while (wait_s := start + number / begun_per_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            connection.ask(next(self._next), True, self.tally.ended)
        deadline = time.perf_counter() + DRAIN_S
        while not all(connection.first_s for connection in self._connections):
            if self.tally.errors or time.perf_counter() > deadline:
                break
            await asyncio.sleep(0.02)
        if not all(connection.busy and connection.first_s for connection in self._connections):
            reason = dict(self.tally.errors) or "the first ended before the last had begun"
            raise LoadError(f"{streams} streams never ran at once: {reason}")
        on_full()
        await self._drain(DRAIN_S + wire.STREAM_CHUNKS * wire.SLOW_PAUSE_S)
        self._stop()
        return self.tally

    async def _beside(self, big: bytes, every_s: float) -> None:
        """Large requests on a connection of their own, one at a time."""
        connection = await self._connect()

        def ended(connection: Connection, problem: str | None) -> None:
            if problem is None:
                self.tally.whole += 1
                self.tally.beside_s.append(connection.ended_s - connection.sent_s)
            else:
                self.tally.errors[f"large: {problem}"] += 1

        while True:
            await asyncio.sleep(every_s)
            if not connection.busy:
                connection.ask(big, False, ended)

    async def _open(self, count: int) -> None:
        for _ in range(count):
            await self._connect()
        await asyncio.sleep(self.settle_s)

    async def _connect(self) -> Connection:
        if len(self._connections) >= self.most_connections:
            waiting = f"{self.most_connections} connections wait for answers"
            raise LoadError(f"{waiting}: the rate is more than the target serves")
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self.exact, self.shape), *self.address
        )
        self._connections.append(connection)
        return connection

    def _begin(self) -> None:
        self.on_begin()
        self.tally.measuring = True
        self.tally.measured_s = -time.perf_counter()

    def _stop(self) -> None:
        self.tally.measured_s += time.perf_counter()
        self.tally.measuring = False
        self.on_end()

    async def _drain(self, at_most_s: float = DRAIN_S) -> None:
        """Wait for what was sent, as long as answers come: without one for `at_most_s`, the rest counts as none."""
        known, deadline = self.tally.whole, time.perf_counter() + at_most_s
        while busy := sum(connection.busy for connection in self._connections):
            if self.tally.whole != known:
                known, deadline = self.tally.whole, time.perf_counter() + at_most_s
            if time.perf_counter() > deadline:
                self.tally.errors["no answer"] += busy
                break
            await asyncio.sleep(0.005)
        for connection in self._connections:
            connection.close()
