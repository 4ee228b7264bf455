"""What tests of a connection to a provider share: bytes are fed by a transport of the tests' own, so that every cut of
them and every end can be had. `test_transport` has the real sockets.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.upstream.base import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from gateway.upstream.transport import Connection, Response

# No test is silent for so long but those of silence, which have a shorter one.
TIMEOUT_S = 300.0
LIMIT_BYTES = 1 << 24
OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"Content-Length: 2\r\n\r\nok"


class Wire(asyncio.Transport):
    """Feeds a connection by hand."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.aborted = False
        self.paused = False
        self.unsent_bytes = 0
        self.connection = Connection("provider.example", timeout_s, asyncio.get_running_loop())
        self.connection.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def feed(self, *segments: bytes) -> None:
        """What an event loop would hand over: nothing once it is closed or paused."""
        for segment in segments:
            assert not self.paused
            if not self.aborted:
                self.connection.data_received(segment)

    def end(self, error: Exception | None = None) -> None:
        """The provider closes, or resets."""
        if not self.aborted:
            self.aborted = True
            self.connection.connection_lost(error)

    @property
    def over(self) -> bool:
        """Whether the answer has come to its end, good or bad."""
        answer = self.connection._answer
        return answer is None or answer.ended or answer.failure is not None

    async def ask(self) -> "asyncio.Task[Response]":
        """A request that waits for its answer."""
        task = asyncio.create_task(self.connection.send(b"POST / HTTP/1.1\r\n\r\n", b"body", 0.0))
        await asyncio.sleep(0)
        return task


@dataclass(frozen=True)
class Outcome:
    """What an answer came to. `whole` is whether its body ended as its framing says; `kept` whether the connection
    would serve another request."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool
    kept: bool


NONE = Outcome(0, [], b"", False, False)


async def outcome(segments: Iterable[bytes], *, end: bool, error: Exception | None = None) -> Outcome:
    """Feed an answer. Only `UpstreamError` may be raised on the way."""
    wire = Wire()
    asking = await wire.ask()
    wire.feed(*segments)
    await asyncio.sleep(0)
    if end:
        wire.end(error)
    elif not wire.over:  # what has not come by now never comes
        wire.connection.fail(UpstreamTimeout("the test's end"))
    try:
        answer = await asking
    except (UpstreamUnreachable, UpstreamTimeout):
        assert wire.aborted
        return NONE
    body = b""
    try:
        async for chunk in answer.chunks():
            body += chunk
        whole = True
    except UpstreamError:
        whole = False
    freed: list[bool] = []
    answer.on_release = lambda _, free: freed.append(free)
    answer.release()
    assert freed == [wire.connection.usable]
    assert freed == [not wire.aborted]
    headers = [(name, value.rstrip(b" \t")) for name, value in answer.headers]
    return Outcome(answer.status, headers, body, whole, freed[0])


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)
