"""What a connection receives, taken no faster than its process's pace allows, and little at a time.

This file owns that no client has the event loop for long at once, however little it sends: what makes much work for its
size (a body in chunks of one byte: each costs aiohttp's parser what it costs for a piece) is parsed in slices, others
have their turn in between, and each slice is paid for before the next.
"""

import asyncio
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.server.pace import Pace

LINE_END: Final = b"\r\n"
SLICE_LINES: Final = 256
"""Lines in one slice; a chunk has two. About half a millisecond of the parser."""
SLICE_BYTES: Final = 16_384
"""The most that is cut off at once where there are many lines; what has few is parsed as it came."""
SMALL_BYTES: Final = 2_048
"""What is never looked through for its lines: requests as most are."""
LARGE_PIECE_BYTES: Final = 16_384
"""Less than this that comes at once is not counted: requests as most are."""
CHUNK_BYTES: Final = 512
"""What a chunk of a body costs beside its bytes, in bytes: aiohttp's parser does for each what it does for a piece."""


class PacedProtocol(RequestHandler):
    """aiohttp's connection at that pace. Who extends it parses in `_take`, and calls `_spend` for what it has taken."""

    __slots__ = ("_held", "_held_at", "_pace", "_resting", "_slicing")

    def __init__(self, manager: web.Server, pace: Pace, **options: Any) -> None:
        super().__init__(manager, **options)
        self._pace = pace
        self._resting = False
        """Whether nothing is read because this process has taken enough for now."""
        self._held = b""
        """What was received and is not parsed yet, but for what stands before `_held_at`."""
        self._held_at = 0
        self._slicing = False
        """Whether the next slice's turn is on its way."""

    def data_received(self, data: bytes) -> None:
        if self._held and data:
            self._held += data  # the transport is paused, so that this is rare
        elif len(data) > SMALL_BYTES and data.count(LINE_END) > SLICE_LINES:
            self._held, self._held_at = data, 0
            self._pause_transport_reading()
            self._take_slice()
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Parse what was received; nothing at all lets the parser go on where it has stopped."""
        super().data_received(data)

    def _take_slice(self) -> None:
        """Parse the next slice of what is held, where anything may be parsed now."""
        self._slicing = False
        if self.transport is None or self._force_close:
            self._held = b""
        if not self._held or self._held_back:
            return
        size_bytes = SLICE_BYTES
        while self._held.count(LINE_END, self._held_at, self._held_at + size_bytes) > SLICE_LINES:
            size_bytes //= 2
        piece = self._held[self._held_at : self._held_at + size_bytes]
        self._held_at += size_bytes
        if self._held_at >= len(self._held):
            self._held = b""
        self._take(piece)
        if not self._held_back:
            self._resume_transport_reading()

    @property
    def _held_back(self) -> bool:
        return self._resting or self._reading_paused or self._buffer_paused

    def _resume_transport_reading(self) -> None:
        if self._resting:
            return
        if not self._held:
            super()._resume_transport_reading()
        elif not self._slicing:
            self._slicing = True
            self._loop.call_soon(self._take_slice)

    def _spend(self, data: bytes, account: str, *, chunked: bool) -> None:
        """Count what was taken; nothing more is read until its turn has come."""
        size_bytes = len(data) + (data.count(LINE_END) // 2 * CHUNK_BYTES if chunked else 0)
        if size_bytes < LARGE_PIECE_BYTES or self._resting:
            return
        if not self._pace.spend(size_bytes, account, self._go_on):
            self._resting = True
            self._pause_transport_reading()

    def _go_on(self) -> None:
        self._resting = False
        if not self._held_back:
            self._resume_transport_reading()

    async def made(self, size_bytes: int, account: str) -> None:
        """Count so many bytes that were made of what was received; until this connection may make more."""
        turn = self._loop.create_future()
        if not self._pace.spend(size_bytes, account, lambda: _wake(turn)):
            await turn

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has left: nothing that it sent is needed."""
        super().connection_lost(exc)
        self._held = b""


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # its request may have been cancelled
        turn.set_result(None)
