"""The body of a provider's answer on a `Connection`, and the three ways to take it: whole, in chunks, or pumped.

The reader gets every byte in order, what came before a failure before the failure, and no more is in memory than it has
room for.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from gateway.upstream.base import Drained, Sink, UpstreamCut, UpstreamError, UpstreamTooLarge


class ResponseSource(Protocol):
    """What an answer needs of its connection. `paused`: it reads nothing until `resume`."""

    paused: bool

    async def wait(self) -> None:
        """Wait for a head, a piece of the body, its end or a failure."""

    def wake(self) -> None:
        """End that wait."""

    def pause(self) -> None:
        """Stop reading: the reader can't keep up."""

    def resume(self) -> None:
        """Read on: the reader has caught up."""

    def finish(self) -> bool:
        """End the answer and return whether the connection can serve another."""


class Response:
    """An answer whose head has arrived; an `UpstreamResponse`. The connection gives it pieces, says when it `ended` or
    met a `failure`; `on_release` gets the connection and whether it is free."""

    __slots__ = (
        "_connection",
        "_parts",
        "_refused",
        "_size",
        "_stalled",
        "buffered_bytes",
        "ended",
        "failure",
        "headers",
        "on_release",
        "pieces",
        "sink",
        "status",
    )

    def __init__(self, connection: ResponseSource) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.buffered_bytes = 0
        self.ended = False
        self.failure: UpstreamError | None = None
        self.on_release: Callable[[Any, bool], None] | None = None
        self._connection: ResponseSource | None = connection
        self._parts: list[bytes] = []
        self._size = 0
        self.sink: Sink | None = None
        self._stalled = False
        self._refused: Exception | None = None

    async def next_piece(self) -> bytes:
        """Return what has arrived, at least a byte; nothing at the body's end. Raises `UpstreamCut`,
        `UpstreamTimeout`."""
        while not self.pieces:  # what came before a failure is read before it
            if self.failure is not None:
                raise self.failure
            if self.ended:
                return b""
            if self._connection is None:
                raise UpstreamCut("the answer was released before its end")
            await self._connection.wait()
        return self._taken()

    def _taken(self) -> bytes:
        pieces, self.pieces = self.pieces, []
        self.buffered_bytes = 0
        if self._connection is not None:
            self._connection.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body, undecoded. Raises `UpstreamTooLarge` once the limit is passed, and what `next_piece`
        raises.

        A read that was cancelled can be taken up by another.
        """
        if not self.ended and self._announced() > limit_bytes:
            raise UpstreamTooLarge(f"the answer is above {limit_bytes} bytes")
        while piece := self._taken() if self.pieces else await self.next_piece():
            self._parts.append(piece)
            self._size += len(piece)
            if self._size > limit_bytes:
                raise UpstreamTooLarge(f"the answer is above {limit_bytes} bytes")
            if self.ended and not self.pieces:
                break
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def taken(self) -> bytes:
        """Return what `read` has of the body so far."""
        return b"".join(self._parts)

    async def head(self) -> "Response":
        """Return this answer when its head is here: for a request that its sender has left."""
        while not self.status:
            if self.failure is not None:
                self.release()
                raise self.failure
            if self._connection is None:
                raise UpstreamCut("the answer was released before its end")
            await self._connection.wait()
        return self

    def _announced(self) -> int:
        return next((int(value) for name, value in self.headers if name.lower() == b"content-length"), 0)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, undecoded. Raises what `next_piece` raises."""
        while piece := await self.next_piece():
            yield piece

    async def pump(self, sink: Sink, drained: Drained) -> None:
        """Give the body to `sink` as it arrives, in the event loop's own turn: a task that is woken for a piece costs
        more than all that is done with it. As `UpstreamResponse.pump` else."""
        self.sink = sink
        try:
            self.deliver()
            while self._connection is not None and self._refused is None:
                if self._stalled:
                    await drained()
                    self._stalled = False
                    self._connection.resume()
                    self.deliver()
                elif self.ended or self.failure is not None:
                    break
                else:
                    await self._connection.wait()
        finally:
            self.sink = None
            if self._stalled and self._connection is not None:
                self._stalled = False
                self._connection.resume()  # another reader may come
        if self._refused is not None:
            raise self._refused
        if self.failure is not None:
            raise self.failure

    def take(self, piece: bytes) -> None:
        """Take a piece of the body: pass it to the sink where that can take it at once, else keep it."""
        sink, connection = self.sink, self._connection
        if sink is None or connection is None or self._stalled or self.pieces or self._refused is not None:
            self.pieces.append(piece)
            self.buffered_bytes += len(piece)
            if sink is not None:
                self.deliver()
        else:
            self._give(piece, sink, connection)

    def deliver(self) -> None:
        """Pass what has arrived to the sink; wake `pump` where that can't take more."""
        if self.sink is None or self._connection is None or self._stalled or not self.pieces or self._refused:
            return
        pieces, self.pieces = self.pieces, []
        self.buffered_bytes = 0
        self._give(pieces[0] if len(pieces) == 1 else b"".join(pieces), self.sink, self._connection)

    def _give(self, piece: bytes, sink: Sink, connection: ResponseSource) -> None:
        try:
            self._stalled = not sink(piece)
        except Exception as error:  # raised in the pumping task
            self._refused = error
        if self._stalled:
            connection.pause()
        elif connection.paused:
            connection.resume()  # a burst was above what is kept
        if self._stalled or self._refused is not None:
            connection.wake()

    def release(self) -> None:
        """Free the connection where the body was read to its end; else close it, which stops the
        provider."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        free = connection.finish()
        if not self.ended and self.failure is None:
            self.failure = UpstreamCut("the answer was released before its end")
            connection.wake()
        if self.on_release is not None:
            self.on_release(connection, free)
