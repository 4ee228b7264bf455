"""Trailers: fields behind the last chunk of a request, which this server never reads (RFC 9110, 6.5).

aiohttp's C parser keeps the last of them and makes it the first header of the next request on the connection, as if
the client had sent it there. It does not say that there were any, so this file proves that there were none: it looks at
what the connection has received last when the body has come to its end. A connection where that can't be proved ends
with the request.
"""

from typing import Final

from aiohttp import StreamReader

_END: Final = b"\r\n0\r\n\r\n"
"""A line with the last chunk's length alone, and the empty line that ends the message. As the last line of trailers the
0 would be a field without a colon, which the parser refuses."""
LOOKED_BACK_BYTES: Final = len(_END)


class ChunkedEnd:
    """Follows one chunked body to its end. `feed` takes what the connection receives, from the head's last bytes on."""

    __slots__ = ("_last", "payload")

    def __init__(self, payload: StreamReader, received: bytes) -> None:
        self.payload = payload
        self._last = received[-LOOKED_BACK_BYTES:]

    def feed(self, received: bytes) -> None:
        self._last = (self._last + received[-LOOKED_BACK_BYTES:])[-LOOKED_BACK_BYTES:]

    @property
    def bare(self) -> bool:
        """Whether the body ended without trailers; for a body at its end, with nothing received behind it."""
        return self._last == _END
