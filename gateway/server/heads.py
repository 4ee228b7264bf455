"""Heads of requests that are not whole yet, and trailers of chunked requests, which this server never reads.

Nobody has shown a key before a head is whole. This file owns that all connections together keep no more than a bound of
heads, and that those end which keep the most: a client whose head came in two segments is not among them.

Trailers are fields behind the last chunk (RFC 9110, 6.5). aiohttp's C parser keeps the last of them and makes it the
first header of the next request on the connection, as if the client had sent it there. It does not say that there were
any, so this file proves that there were none: it looks at what the connection has received last when the body has come
to its end. A connection where that can't be proved ends with the request.
"""

import heapq
from typing import Final, Protocol

from aiohttp import StreamReader

# Of all that wait, the part that ends at once where there is too much: to find them costs a look at each.
SHED_SHARE: Final = 64


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
        """Count more bytes of a connection's head. Where that is too much, the connections with the most are ended."""
        self._sizes[connection] = self._sizes.get(connection, 0) + size_bytes
        self.size_bytes += size_bytes
        if self.size_bytes > self._limit_bytes:
            for each in heapq.nlargest(1 + len(self._sizes) // SHED_SHARE, self._sizes, key=self._sizes.__getitem__):
                each.end_head()

    def drop(self, connection: Waiting) -> None:
        """Count nothing for a connection whose head is whole, or that has ended."""
        self.size_bytes -= self._sizes.pop(connection, 0)


# A line with the last chunk's length alone, and the empty line that ends the message. As the last line of trailers the
# 0 would be a field without a colon, which the parser refuses.
_END: Final = b"\r\n0\r\n\r\n"
LOOKED_BACK_BYTES: Final = len(_END)


# The framing of one chunk: the line ends, and eight digits of its length.
FRAMING_BYTES: Final = 12


class ChunkedEnd:
    """Follows one chunked body to its end. `feed` takes what the connection receives, from the head's last bytes on."""

    __slots__ = ("_chunks", "_first_bytes", "_last", "_received_bytes", "payload")

    def __init__(self, payload: StreamReader, received: bytes) -> None:
        self.payload = payload
        self._last = received[-LOOKED_BACK_BYTES:]
        self._first_bytes = payload.total_bytes
        """Of the body, what has come with the head."""
        self._received_bytes = 0
        self._chunks = 1

    def feed(self, received: bytes) -> None:
        """Take bytes that were received."""
        self._last = (self._last + received[-LOOKED_BACK_BYTES:])[-LOOKED_BACK_BYTES:]
        self._received_bytes += len(received)
        self._chunks += received.count(b"\r\n") // 2 + 1

    @property
    def size_bytes(self) -> int:
        """Return how large the body is so far. What no framing needs counts: extensions of chunks, zeros before their
        lengths. Where the body has line ends of its own, some of that is taken for framing."""
        body_bytes = self.payload.total_bytes
        framed_bytes = body_bytes - self._first_bytes + self._chunks * FRAMING_BYTES
        return body_bytes + max(0, self._received_bytes - framed_bytes)

    @property
    def bare(self) -> bool:
        """Return whether the body ended without trailers; for a body at its end, with nothing received behind it."""
        return self._last == _END
