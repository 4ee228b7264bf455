"""Heads of requests that are not whole yet: how much of them one process keeps.

Nobody has shown a key by then. This file owns that all connections together keep no more than a bound, and that those
end which keep the most: a client whose head came in two segments is not among them.
"""

import heapq
from typing import Final, Protocol

SHED_SHARE: Final = 64
"""Of all that wait, the part that ends at once where there is too much: to find them costs a look at each."""


class Waiting(Protocol):
    """A connection on which a head has begun."""

    def end_head(self) -> None:
        """Refuse it, and end the connection."""


class Heads:
    """The unfinished heads of one process, at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._sizes: dict[Waiting, int] = {}
        self.size_bytes = 0

    def add(self, connection: Waiting, size_bytes: int) -> None:
        """So many more bytes of a connection's head have come. Where that is too much, the largest end."""
        self._sizes[connection] = self._sizes.get(connection, 0) + size_bytes
        self.size_bytes += size_bytes
        if self.size_bytes > self._limit_bytes:
            for each in heapq.nlargest(1 + len(self._sizes) // SHED_SHARE, self._sizes, key=self._sizes.__getitem__):
                each.end_head()

    def drop(self, connection: Waiting) -> None:
        """A connection's head is whole, or the connection has ended."""
        self.size_bytes -= self._sizes.pop(connection, 0)
