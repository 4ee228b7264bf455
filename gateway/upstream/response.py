"""The body of a provider's answer on a connection of ours, and the three ways to take it: whole, in chunks, or pumped.

This file owns what the reader gets: every byte in order, what came before a failure before the failure, and no more in
memory than the reader has room for.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from gateway.upstream.base import Drained, Sink, UpstreamCut, UpstreamError, UpstreamTooLarge


class ResponseSource(Protocol):
    """What an answer asks of its connection. `paused`: it reads nothing until it is told to `resume`."""

    paused: bool

    async def wait(self) -> None:
        """Until something has happened: a head, a piece of the body, its end or a failure."""

    def wake(self) -> None:
        """End that wait."""

    def pause(self) -> None:
        """The reader can't keep up."""

    def resume(self) -> None:
        """The reader has caught up."""

    def finish(self) -> bool:
        """The answer is done with: whether the connection can serve another."""


class Response:
    """An answer whose head has arrived; an `UpstreamResponse`. The connection gives it pieces, says when it `ended` or
    met a `failure`; `on_release` is told the connection and whether it is free."""

    __slots__ = (
        "_line",
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

    def __init__(self, line: ResponseSource) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.buffered_bytes = 0
        self.ended = False
        self.failure: UpstreamError | None = None
        self.on_release: Callable[[Any, bool], None] | None = None
        self._line: ResponseSource | None = line
        self._parts: list[bytes] = []
        self._size = 0
        self.sink: Sink | None = None
        self._stalled = False
        self._refused: Exception | None = None

    async def next_piece(self) -> bytes:
        """What has arrived, at least a byte; nothing at the body's end. Raises `UpstreamCut`, `UpstreamTimeout`."""
        while not self.pieces:  # what came before a failure is read before it
            if self.failure is not None:
                raise self.failure
            if self.ended:
                return b""
            if self._line is None:
                raise UpstreamCut("the answer was released before its end")
            await self._line.wait()
        return self._taken()

    def _taken(self) -> bytes:
        pieces, self.pieces = self.pieces, []
        self.buffered_bytes = 0
        if self._line is not None:
            self._line.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body, undecoded. Raises `UpstreamTooLarge` once the limit is passed, and what `next_piece` raises.

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
        """What `read` has of the body so far."""
        return b"".join(self._parts)

    async def head(self) -> "Response":
        """This, when its head is here: for whoever takes up a request that its sender has left."""
        while not self.status:
            if self.failure is not None:
                self.release()
                raise self.failure
            if self._line is None:
                raise UpstreamCut("the answer was released before its end")
            await self._line.wait()
        return self

    def _announced(self) -> int:
        return next((int(value) for name, value in self.headers if name.lower() == b"content-length"), 0)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, undecoded. Raises what `next_piece` raises."""
        while piece := await self.next_piece():
            yield piece

    async def pump(self, sink: Sink, drained: Drained) -> None:
        """Give the body to `sink` as it arrives, in the event loop's own turn: a task that is woken for a piece costs
        more than all that is done with it. As `UpstreamResponse.pump` else."""
        self.sink = sink
        try:
            self.deliver()
            while self._line is not None and self._refused is None:
                if self._stalled:
                    await drained()
                    self._stalled = False
                    self._line.resume()
                    self.deliver()
                elif self.ended or self.failure is not None:
                    break
                else:
                    await self._line.wait()
        finally:
            self.sink = None
            if self._stalled and self._line is not None:
                self._stalled = False
                self._line.resume()  # another reader may come
        if self._refused is not None:
            raise self._refused
        if self.failure is not None:
            raise self.failure

    def take(self, piece: bytes) -> None:
        """A piece of the body has arrived: to the sink where it can go on at once, else it is kept."""
        sink, line = self.sink, self._line
        if sink is None or line is None or self._stalled or self.pieces or self._refused is not None:
            self.pieces.append(piece)
            self.buffered_bytes += len(piece)
            if sink is not None:
                self.deliver()
        else:
            self._give(piece, sink, line)

    def deliver(self) -> None:
        """What has arrived, to the sink; `pump` is woken where that can't go on."""
        if self.sink is None or self._line is None or self._stalled or not self.pieces or self._refused:
            return
        pieces, self.pieces = self.pieces, []
        self.buffered_bytes = 0
        self._give(pieces[0] if len(pieces) == 1 else b"".join(pieces), self.sink, self._line)

    def _give(self, piece: bytes, sink: Sink, line: ResponseSource) -> None:
        try:
            self._stalled = not sink(piece)
        except Exception as error:  # it is the pumping task's: there it is raised
            self._refused = error
        if self._stalled:
            line.pause()
        elif line.paused:
            line.resume()  # a burst was above what is kept
        if self._stalled or self._refused is not None:
            line.wake()

    def release(self) -> None:
        """The connection is free again when the body was read to its end; else it is closed, which stops the
        provider."""
        line, self._line = self._line, None
        if line is None:
            return
        free = line.finish()
        if not self.ended and self.failure is None:
            self.failure = UpstreamCut("the answer was released before its end")
            line.wake()
        if self.on_release is not None:
            self.on_release(line, free)
