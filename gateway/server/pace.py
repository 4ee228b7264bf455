"""How fast a process takes bodies from its connections, all together.

To take a body costs time on the event loop, some milliseconds for a megabyte, and more where it comes in many small
chunks: without a bound a few fast uploads leave nothing of it to anybody else. This file owns that bound, and that who
waits for it is served account by account: one with a hundred uploads gets as much as one with a single upload.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

BURST_S: Final = 0.125
"""What may be taken at once after a rest, in seconds of the rate: a body of some megabytes that comes alone does not
wait."""
LATE_S: Final = 0.005
"""How much of the time that a late timer took is made up for."""

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
