"""Answers that come compressed although identity was asked for: looked at decoded, passed on as they came."""

import zlib
from collections.abc import Callable
from typing import Final

from gateway.providers.dialect import Tap

ENCODINGS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
MAX_DECODED_BYTES: Final = 64 << 20


class StreamWatch:
    """A tap on a stream that may be compressed although identity was asked for: then the tap sees it decoded, the
    client gets it as it came, and its last piece waits for the settlement."""

    __slots__ = ("_decoder", "_last", "tap")

    def __init__(self, tap: Tap, encoding: str | None) -> None:
        self.tap = tap
        wbits = ENCODINGS.get(encoding) if encoding else None
        self._decoder = zlib.decompressobj(wbits) if wbits is not None else None
        self._last = b""

    def feed_of(self) -> Callable[[bytes], bytes]:
        """`feed`, or the tap's own where nothing has to be decoded for it."""
        return self.tap.feed if self._decoder is None else self.feed

    def feed(self, chunk: bytes) -> bytes:
        """The bytes to pass on now. Raises `zlib.error`."""
        if self._decoder is None:
            return self.tap.feed(chunk)
        self.tap.feed(self._decoder.decompress(chunk, MAX_DECODED_BYTES))
        out, self._last = self._last, chunk
        return out

    def finish(self, cost_usd: str | None) -> bytes:
        """The bytes that were held back."""
        rest = self.tap.finish(cost_usd)
        return rest if self._decoder is None else self._last


def decoded(body: bytes, encoding: str | None) -> bytes:
    """A whole body, decoded up to MAX_DECODED_BYTES. Raises `zlib.error`."""
    wbits = ENCODINGS.get(encoding) if encoding else None
    if wbits is None:
        return body
    return zlib.decompressobj(wbits).decompress(body, MAX_DECODED_BYTES)
