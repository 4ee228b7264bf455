"""The load generator: keep-alive connections on `asyncio.Protocol`, requests made beforehand, every answer checked.

    saturate   a closed loop: every connection asks again as soon as it has its answer
    pace       an open loop: requests leave at a fixed rate, whether or not earlier ones were answered
    stream     a closed loop of server-sent event streams, begun one after the other

An answer is whole when its bytes are those that the upstream sent; anything else is an error with its reason. A run
ends when every request that was sent has its answer, so that a ledger can be compared with the count.
"""

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from benchmarks import wire

Address = tuple[str, int]

CONNECTIONS_MAX: Final = 512
DRAIN_S: Final = 20.0
_OK: Final = b"HTTP/1.1 200 "
_DATA: Final = b"data: "
_DONE: Final = b"data: [DONE]\n\n"
_DELTA: Final = b'"delta"'


class LoadError(Exception):
    """The generator could not do what it was asked: the figures of this run would mean nothing."""


@dataclass(slots=True)
class Tally:
    """What came of a run. Latencies in seconds, of what was measured; counts of everything, warm-up included."""

    whole: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    measuring: bool = False
    measured: int = 0
    measured_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    first_bytes_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)

    def ended(self, connection: "Connection", problem: str | None) -> None:
        """Note one answer, or why there is none."""
        if problem is not None:
            self.errors[problem] += 1
            return
        self.whole += 1
        if self.measuring:
            self.measured += 1
            self.latencies_s.append(connection.ended_s - connection.sent_s)
            if connection.first_s:
                self.first_bytes_s.append(connection.first_s - connection.sent_s)


class Connection(asyncio.Protocol):
    """One connection, one request at a time. `on_end` gets the connection and a problem or None."""

    __slots__ = ("_on_end", "_parts", "_streaming", "_tail", "_transport", "busy", "ended_s", "first_s", "sent_s")

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._on_end: Callable[[Connection, str | None], None] | None = None
        self._parts: list[bytes] = []
        self._streaming = False
        self._tail = b""
        self.busy = False
        self.sent_s = self.first_s = self.ended_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def ask(self, data: bytes, streaming: bool, on_end: Callable[["Connection", str | None], None]) -> None:
        """Send a request. The connection must not be busy."""
        self._on_end, self._streaming, self.busy = on_end, streaming, True
        self._parts.clear()
        self._tail = b""
        self.first_s = 0.0
        self.sent_s = time.perf_counter()
        if self._transport is None:
            self._end("no connection")
        else:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            return
        if not self._parts and not data.startswith(_OK):
            self._end(data[:16].decode("latin-1") + _code(data))
            self.close()
        elif self._streaming:
            self._stream_data(data)
        else:
            whole = data
            if self._parts:
                self._parts.append(data)
                whole = b"".join(self._parts)
            if whole.endswith(wire.ANSWER_BODY):
                self._end(None)
            else:
                self._parts = [whole]

    def _stream_data(self, data: bytes) -> None:
        if not self.first_s and _DATA in data:
            self.first_s = time.perf_counter()
        self._parts.append(data)
        self._tail = (self._tail + data)[-len(wire.STREAM_END) :]
        if self._tail == wire.STREAM_END:
            whole = b"".join(self._parts)
            good = whole.count(_DELTA) == wire.STREAM_CHUNKS and _DONE in whole
            self._end(None if good else "a stream that is not whole")

    def _end(self, problem: str | None) -> None:
        self.ended_s = time.perf_counter()
        self.busy = False
        if self._on_end is not None:
            self._on_end(self, problem)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self.busy:
            self._end("the connection broke")

    def close(self) -> None:
        """Close it; safe to call twice."""
        if self._transport is not None:
            self._transport.close()


def _code(data: bytes) -> str:
    at = data.find(b'"code":')
    return "" if at < 0 else " " + data[at + 7 : at + 60].decode("latin-1").split(",")[0].strip(' "}')


@dataclass(slots=True)
class Run:
    """One run against one address. `on_begin` and `on_end` are called around what is measured."""

    address: Address
    requests: Sequence[bytes]
    on_begin: Callable[[], None] = lambda: None
    on_end: Callable[[], None] = lambda: None
    streaming: bool = False
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

    async def _beside(self, big: bytes, every_s: float) -> None:
        """Large requests on a connection of their own, one at a time."""
        connection = await self._connect()

        def ended(_: Connection, problem: str | None) -> None:
            if problem is None:
                self.tally.whole += 1
            else:
                self.tally.errors[f"large: {problem}"] += 1

        while True:
            await asyncio.sleep(every_s)
            if not connection.busy:
                connection.ask(big, False, ended)

    async def _open(self, count: int) -> None:
        for _ in range(count):
            await self._connect()

    async def _connect(self) -> Connection:
        if len(self._connections) >= CONNECTIONS_MAX:
            raise LoadError(f"{CONNECTIONS_MAX} connections wait for answers: the rate is more than the target serves")
        _, connection = await asyncio.get_running_loop().create_connection(Connection, *self.address)
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

    async def _drain(self) -> None:
        deadline = time.perf_counter() + DRAIN_S
        while busy := sum(connection.busy for connection in self._connections):
            if time.perf_counter() > deadline:
                self.tally.errors["no answer"] += busy
                break
            await asyncio.sleep(0.005)
        for connection in self._connections:
            connection.close()
