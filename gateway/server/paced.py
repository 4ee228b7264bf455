"""How fast a process takes what its connections send, and how little of it at a time.

To take a body costs time on the event loop, some milliseconds for a megabyte, and more where it comes in many small
chunks (each costs aiohttp's parser what it costs for a piece): without bounds a few fast uploads leave nothing of it to
anybody else. This file owns that all bodies of a process together are taken no faster than a rate, account by account
in turn: one with a hundred uploads gets as much as one with a single upload. And that no client has the event loop for
long at once, however little it sends: what makes much work for its size is parsed in slices, others have their turn in
between, and each slice is paid for before the next.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from gateway.server.exchange import LARGE_PIECE_BYTES

if TYPE_CHECKING:
    import asyncio

LINE_END: Final = b"\r\n"
# Lines in one slice; a chunk has two. About half a millisecond of the parser.
SLICE_LINES: Final = 256
# The most that is cut off at once where there are many lines; what has few is parsed as it came.
SLICE_BYTES: Final = 16_384
# What is never looked through for its lines: requests as most are.
SMALL_BYTES: Final = 2_048
# The cost of a chunk of a body in addition to its bytes, in bytes: aiohttp's parser does for each what it does for a
# piece.
CHUNK_BYTES: Final = 512
# What may be taken at once after a rest, in seconds of the rate: a body of some megabytes that comes alone does not
# wait.
BURST_S: Final = 0.125
# How much of the time that a late timer took is made up for.
LATE_S: Final = 0.005

_GoOn = Callable[[], None]


class Pace:
    """One process's rate in bytes a second."""

    def __init__(self, bytes_per_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._bytes_per_s = bytes_per_s
        self._loop = loop
        self._rows: OrderedDict[str, deque[tuple[int, _GoOn]]] = OrderedDict()
        """By account, what was taken and not counted yet, and who waits for that; the next account first."""
        self._free_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def spend(self, size_bytes: int, account: str, go_on: _GoOn) -> bool:
        """Count what a connection has taken. True where it may take more at once; else `go_on` is called when it may.
        Connections without an account, an empty one, wait in one row."""
        now_s = self._loop.time()
        if not self._rows and self._free_at_s <= now_s + BURST_S:
            self._count(size_bytes, now_s)
            return True
        self._rows.setdefault(account, deque()).append((size_bytes, go_on))
        if self._timer is None:
            self._timer = self._loop.call_at(self._free_at_s, self._next)
        return False

    def _count(self, size_bytes: int, since_s: float) -> None:
        self._free_at_s = max(self._free_at_s, since_s) + size_bytes / self._bytes_per_s

    def _next(self) -> None:
        now_s = self._loop.time()
        while self._rows and self._free_at_s <= now_s:
            account, row = self._rows.popitem(last=False)
            size_bytes, go_on = row.popleft()
            if row:
                self._rows[account] = row
            self._count(size_bytes, now_s - LATE_S)
            go_on()
        self._timer = self._loop.call_at(self._free_at_s, self._next) if self._rows else None


class PacedProtocol(web.RequestHandler):
    """aiohttp's connection at that pace. A subclass takes what was received in `_take`, where it calls `_parse`, and
    calls `_spend` for what it has taken."""

    __slots__ = ("_early", "_held", "_held_at", "_pace", "_resting", "_slicing")

    def __init__(self, manager: web.Server, pace: Pace, **options: Any) -> None:
        super().__init__(manager, **options)
        self._pace = pace
        self._resting = False
        """Whether nothing is read because this process has taken enough for now."""
        self._early: bytes | None = None
        """What was received before anything may be taken; None once it may."""
        self._held = b""
        """What was received and is not parsed yet, but for what stands before `_held_at`."""
        self._held_at = 0
        self._slicing = False
        """Whether the next slice's turn is on its way."""

    def data_received(self, data: bytes) -> None:
        if self._early is not None:
            self._early += data
        elif self._held and data:
            self._held += data  # the transport is paused, so that this is rare
        elif len(data) > SMALL_BYTES and _has_many_lines(data):
            self._held, self._held_at = data, 0
            self._pause_transport_reading()
            self._take_slice()
        else:
            self._take(data)

    _parse = web.RequestHandler.data_received
    """aiohttp's own: parse and queue what was received; nothing at all lets the parser go on where it has stopped."""

    def _take(self, data: bytes) -> None:
        """Take what was received, now that its turn has come."""
        raise NotImplementedError

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
        """Count bytes that were decoded from what was received, and wait until this connection may decode more."""
        turn = self._loop.create_future()
        if not self._pace.spend(size_bytes, account, lambda: _wake(turn)):
            await turn

    def connection_lost(self, exc: BaseException | None) -> None:
        """Drop what was received and not parsed: its client has left."""
        super().connection_lost(exc)
        self._held = b""


def _has_many_lines(data: bytes) -> bool:
    """Return whether there are more lines than one slice has. Their ends are counted only where there may be so many:
    one character is found ten times faster than two are counted."""
    at = -1
    for _ in range(SLICE_LINES):
        at = data.find(b"\n", at + 1)
        if at < 0:
            return False
    return data.count(LINE_END) > SLICE_LINES


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # its request may have been cancelled
        turn.set_result(None)
