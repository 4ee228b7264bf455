"""One connection of the load generator on `asyncio.Protocol`, and the tally of what came over all of them.

An answer is whole when its bytes are those that the upstream sent. From a target that writes answers anew, which only
peers may do, an answer of status 200 is whole when it has come to its end and has the upstream's text in it. Anything
else is an error with its reason.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from benchmarks import wire

_OK: Final = b"HTTP/1.1 200 "
_DATA: Final = b"data: "
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"
_CHUNKED: Final = b"\r\ntransfer-encoding: chunked"
_TEXT: Final = wire.ANSWER_TEXT.encode()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a whole stream looks like: `delta` stands in it as often as a stream has deltas, `last` in its end."""

    delta: bytes = b'"delta"'
    last: bytes = b"data: [DONE]\n\n"
    deltas: int = wire.STREAM_CHUNKS

    def holds(self, stream: bytes) -> bool:
        """Whether a stream is whole."""
        return stream.count(self.delta) == self.deltas and self.last in stream


CHAT: Final = Shape()
LONG: Final = Shape(deltas=wire.LONG_EVENTS)


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
    beside_s: list[float] = field(default_factory=list)

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
    """One connection, one request at a time. `on_end` gets the connection and a problem or None. `exact`: the target
    passes the upstream's bytes on. `shape` is what streams have to look like."""

    __slots__ = (
        "_exact",
        "_on_end",
        "_parts",
        "_shape",
        "_streaming",
        "_tail",
        "_transport",
        "busy",
        "ended_s",
        "first_s",
        "sent_s",
    )

    def __init__(self, exact: bool = True, shape: Shape = CHAT) -> None:
        self._exact = exact
        self._shape = shape
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
            elif not self._exact and ended(whole):
                self._end(None if _TEXT in whole else f"an answer without the upstream's text: {whole[-200:]!r}")
            else:
                self._parts = [whole]

    def _stream_data(self, data: bytes) -> None:
        if not self.first_s and _DATA in data:
            self.first_s = time.perf_counter()
        self._parts.append(data)
        self._tail = (self._tail + data)[-len(wire.STREAM_END) :]
        if self._tail == wire.STREAM_END:
            whole = b"".join(self._parts)
            self._end(None if self._shape.holds(whole) else "a stream that is not whole")

    def has_come_to(self, text: bytes) -> bool:
        """Whether a text stands in what came last of the answer."""
        return text in b"".join(self._parts[-2:])

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


def ended(answer: bytes) -> bool:
    """Whether an answer has come to its end, by its length or its last chunk."""
    head_end = answer.find(_HEAD_END)
    if head_end < 0:
        return False
    head = answer[: head_end + 2].lower()
    if _CHUNKED in head:
        return answer.endswith(wire.STREAM_END)
    at = head.find(_LENGTH)
    if at < 0:
        return False
    at += len(_LENGTH)
    return len(answer) - head_end - len(_HEAD_END) >= int(head[at : head.index(b"\r\n", at)])
