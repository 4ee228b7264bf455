"""Content codings of request bodies: gzip and deflate, decoded in pieces of bounded size. Pure.

Source: RFC 9110, 8.4.1. This file owns that decoding never makes more than PIECE_BYTES at once, whatever it is fed, so
that a reader of a body can count, wait or stop between two pieces. A body with a coding of another name, or with more
than one, is refused: nothing here guesses.
"""

import zlib
from collections.abc import Iterator
from typing import Final

from billing.errors import MetergateError

# Decoded bytes at once: about a quarter of a millisecond of one core.
PIECE_BYTES: Final = 65_536
# Coded bytes at once: zlib gives back, as a copy, what of them it did not need for a piece.
INPUT_BYTES: Final = 16_384
# Of one gzip body. Each costs a decoder of its own, and one body needs no second one.
MAX_MEMBERS: Final = 64

_GZIP: Final = ("gzip", "x-gzip")
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
_CM_MASK: Final = 0x0F
# The lowest bits of a zlib header's first byte (RFC 1950, 2.2). Some clients send deflate bare, as RFC 1951 has it.
_CM_DEFLATE: Final = 8


class BadCoding(MetergateError):
    """A body that can't be decoded; the message is fit for the client."""


class Decoder:
    """Decodes one body: `feed` for every part as it arrives, then `end`. `gzip` says which of the two codings it is;
    of its members at most `max_members` are decoded."""

    __slots__ = ("_gzip", "_max_members", "_members", "_zlib")

    def __init__(self, *, gzip: bool, max_members: int = MAX_MEMBERS) -> None:
        self._gzip = gzip
        self._max_members = max_members
        self._zlib = zlib.decompressobj(_GZIP_BITS) if gzip else None
        self._members = 1

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next part of the coded body comes to, in pieces of at most PIECE_BYTES. Raises `BadCoding`."""
        for start in range(0, len(data), INPUT_BYTES):
            rest, full = data[start : start + INPUT_BYTES], False
            while rest or full:
                inner = self._next(rest)
                try:
                    piece = inner.decompress(rest, PIECE_BYTES)
                except zlib.error as error:
                    raise BadCoding("The body is not encoded as its Content-Encoding says.") from error
                rest = inner.unused_data if inner.eof else inner.unconsumed_tail
                full = len(piece) == PIECE_BYTES and not inner.eof  # zlib may have more without more input
                if piece:
                    yield piece

    def end(self) -> None:
        """End the body: no more comes. Raises `BadCoding` where the coded body is not whole."""
        if self._zlib is not None and not self._zlib.eof:
            raise BadCoding("The encoded body ended too soon.")

    def _next(self, rest: bytes) -> "zlib._Decompress":
        """Return the decoder that takes `rest`."""
        if self._zlib is None:
            bare = rest[0] & _CM_MASK != _CM_DEFLATE
            self._zlib = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS)
        elif self._zlib.eof:
            self._members += 1
            if not self._gzip or self._members > self._max_members:
                raise BadCoding("There is more behind the encoded body's end.")
            self._zlib = zlib.decompressobj(_GZIP_BITS)
        return self._zlib


def decoder_of(coding: str | None) -> Decoder | None:
    """Return what decodes a body with this `Content-Encoding`; None where there is nothing to decode. Raises
    `BadCoding`."""
    name = (coding or "").strip().lower()
    if name in ("", "identity"):
        return None
    if name in _GZIP:
        return Decoder(gzip=True)
    if name == "deflate":
        return Decoder(gzip=False)
    raise BadCoding("This Content-Encoding is not known here: send the body plain, or with gzip or deflate alone.")
