"""Answers looked at: decoded where they come compressed although identity was asked for, and passed on as they came."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Final

from billing.codings import BadCoding, Decoder
from gateway.dialects.output import NO_OUTPUT, Output
from gateway.proxy.settlement.usage_anomalies import believed
from gateway.server.exchange import ClientGone
from gateway.upstream.base import UpstreamError, UpstreamTooLarge

if TYPE_CHECKING:
    from gateway.dialects.base import Tap
    from gateway.dialects.facts import Reported
    from gateway.proxy.context import RequestContext
    from gateway.proxy.headers import ResponseHead
    from gateway.proxy.stored import Withheld

ENCODINGS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
# What breaks a stream without being a fault of ours.
BREAKS: Final = (UpstreamError, ClientGone, zlib.error)
READABLE: Final = frozenset({"identity", "", *ENCODINGS})
# Of a stream that are decoded at a time.
SLICE_BYTES: Final = 1 << 20
# Of one whole answer in gzip; each costs a decoder of its own.
MAX_MEMBERS: Final = 4_096


class StreamWatch:
    """A tap on a stream that may be compressed although identity was asked for: then the tap sees it decoded, the
    client gets it as it came, and its last piece waits for the settlement."""

    __slots__ = ("_decoder", "_last", "_wbits", "tap", "withheld")

    def __init__(self, tap: Tap, encoding: str | None) -> None:
        self.tap = tap
        self.withheld: Withheld | None = None
        self._wbits = wbits = ENCODINGS.get(encoding) if encoding else None
        self._decoder = zlib.decompressobj(wbits) if wbits is not None else None
        self._last = b""

    def feeder(self) -> Tap | StreamWatch:
        """Return what is to be fed: the tap itself, where nothing has to be decoded for it."""
        return self.tap if self._decoder is None else self

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes to pass on now. Raises `zlib.error`."""
        if self._decoder is None or self._wbits is None:
            return self.tap.feed(chunk)
        left = chunk
        while left:
            self.tap.feed(self._decoder.decompress(left, SLICE_BYTES))
            left = self._decoder.unconsumed_tail
            if self._decoder.eof and (left := self._decoder.unused_data):  # another member, which clients read as well
                self._decoder = zlib.decompressobj(self._wbits)
        out, self._last = self._last, chunk
        return out

    def finish(self, charge_usd: str | None) -> bytes:
        """Return the bytes that were held back."""
        rest = self.tap.finish(charge_usd)
        return rest if self._decoder is None else self._last


def decoded(body: bytes, encoding: str | None, limit_bytes: int) -> bytes:
    """Return a whole body, decoded: of gzip all members, as clients read them. Raises `zlib.error`, and
    `UpstreamTooLarge` above the limit."""
    if encoding not in ENCODINGS:
        return body
    decoder, plain = Decoder(gzip=encoding != "deflate", max_members=MAX_MEMBERS), BytesIO()
    try:
        for piece in decoder.feed(body):
            plain.write(piece)
            if plain.tell() > limit_bytes:
                raise UpstreamTooLarge(f"the answer is above {limit_bytes} bytes when it is decoded")
    except BadCoding as error:
        raise zlib.error(str(error)) from error
    return plain.getvalue()


def read_whole(
    context: RequestContext, body: bytes, head: ResponseHead, limit_bytes: int
) -> tuple[Reported | None, Output]:
    """Return the usage of a whole answer, or what it wrote where it reports none to be believed. Raises
    `GarbageAnswer`, `zlib.error`, and `UpstreamTooLarge` where it is larger than `limit_bytes` when it is decoded."""
    plain = decoded(body, head.content_encoding, limit_bytes)
    dialect = context.match.dialect
    reported = dialect.usage_from_json(context.parsed.operation, plain)
    if not context.match.endpoint.free:
        reported = believed(context.route, reported)
    if reported is not None:
        return reported, NO_OUTPUT
    output = dialect.output(plain)
    return None, output if context.parsed.has_output else Output(failed=output.failed)


def output_of_part(context: RequestContext, part: bytes, head: ResponseHead) -> Output:
    """Return what a part of a JSON answer wrote."""
    if not context.parsed.has_output:
        return NO_OUTPUT
    if head.content_encoding in ENCODINGS:
        return Output(known=not part)
    return context.match.dialect.output_of_part(part)
