"""Gemini's format, streams: server-sent events (`alt=sse`), or one JSON array that is sent an object at a time.

This file owns three rules, in both framings. **Bytes pass untouched**: what `feed` and `finish` return is, joined, what
came in, but for a cost that the client asked for. **The end is held**: there is no event that says so, hence the last
piece in which a candidate finishes comes out of `finish` alone, with all that follows it, unless the model writes on.
**Nothing grows without bound**: `frames.MAX_PIECE_BYTES` of one piece, `MAX_HELD_BYTES` of what follows the last one,
`passed.MAX_KEPT_BYTES` of what passed.

A piece passes when it is whole: Google sends each in one write, and usage stands in every one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.exceptions import GarbageAnswer
from gateway.dialects.fields import is_null
from gateway.dialects.gemini.answer import Answer, Reading, decode, finishes
from gateway.dialects.gemini.output import pieces, pieces_of_part
from gateway.dialects.passed import MAX_KEPT_BYTES, Passed

if TYPE_CHECKING:
    from gateway.dialects.facts import Reported
    from gateway.dialects.gemini.frames import Frame, Frames
    from gateway.dialects.output import Piece

MAX_HELD_BYTES: Final = 1 << 20
"""Of what follows the last piece, before it passes."""
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_USAGE: Final = "usageMetadata"


class GeminiTap(Passed):
    """Watches one stream; a `Tap`. Not for use by two tasks at once."""

    def __init__(self, frames: Frames, keep_bytes: int = MAX_KEPT_BYTES) -> None:
        super().__init__(keep_bytes)
        self.error_seen = False
        self._frames = frames
        self._reading = Reading()
        self._uncounted = False  # something was written, and nobody counted it
        self._finished = False  # a candidate has, and nothing was written since then
        self._held: list[Frame] = []
        self._held_bytes = 0  # but for the first
        self._ended = False

    @property
    def reported(self) -> Reported | None:
        """Return the usage as it is known by now. Made when this is asked: it stands in every piece."""
        return None if self._uncounted else self._reading.reported()

    @property
    def done(self) -> bool:
        """Return whether the last thing that the model wrote came to its end, and the stream did."""
        return self._finished and self._frames.closed

    @property
    def began_output(self) -> bool:
        """Return whether the model wrote something, for which bytes that nobody reads are taken."""
        return self._unkept_bytes > 0 or super().began_output

    @property
    def _unkept_bytes(self) -> int:
        return self._not_kept_bytes + self._frames.unread_bytes

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes to pass on now, for the next bytes from the provider."""
        out = b""
        for frame in self._frames.feed(chunk):
            out += self._pass(frame)
        return out

    def _pass(self, frame: Frame) -> bytes:
        """Return what may pass by now, once a piece has come."""
        raw, data = frame
        if data and self._look(data):
            out = self._release()
        elif self._held and any(pieces(data)):
            self._finished = False  # the model writes on
            return self._release() + raw
        elif not self._held and not self._frames.closing:
            return raw
        else:
            out = self._release() if self._held_bytes + len(raw) > MAX_HELD_BYTES else b""
        self._held_bytes += len(raw) if self._held else 0
        self._held.append(frame)
        return out

    def _release(self) -> bytes:
        released = b"".join(raw for raw, _ in self._held)
        self._held.clear()
        self._held_bytes = 0
        return released

    def _look(self, data: bytes) -> bool:
        """Read one piece; whether a candidate finishes in it, or an error says that no more comes."""
        try:
            answer = decode(data)
        except GarbageAnswer:
            answer = Answer()
        if self._kept_bytes + len(data) <= self._keep_bytes:
            self._kept.append(data)
            self._kept_bytes += len(data)
        else:
            self._not_kept_bytes += len(data)
        if self._reading.take(answer, data):
            self._reported_at = len(self._kept), self._unkept_bytes
        is_error, finished = not is_null(answer.error), finishes(answer, data)
        self.error_seen = self.error_seen or is_error
        self._finished = self._finished or finished
        return finished or is_error

    def end(self) -> None:
        """Read, once the provider has ended its stream, what stands in an unfinished last piece. Call before
        `reported`."""
        if self._ended:
            return
        self._ended = True
        raw, data = self._frames.rest()
        if raw:
            if data and not self._look(data):
                self._unfinished = [] if any(pieces(data)) else pieces_of_part(data)
                self._finished = self._finished and not self._unfinished and not any(pieces(data))
            self._began = self._began or bool(self._unfinished)
            self._held.append((raw, data))
        reported = self.reported if self.done else None
        nothing = reported is None or reported.counts_nothing or bool(reported.usage.output_tokens)
        self._uncounted = not nothing and self.began_output

    def finish(self, cost_usd: str | None = None) -> bytes:
        """Return the bytes that were held back; once, then none. `cost_usd` goes into the last usage among them."""
        self.end()
        held = [raw for raw, _ in self._held]
        if cost_usd is not None:
            for number in reversed(range(len(held))):
                raw, data = self._held[number]
                changed = _with_cost(data, cost_usd)
                if changed is not None:
                    held[number] = self._frames.with_data(raw, data, changed)
                    break
        self._held.clear()
        return b"".join(held)

    def _pieces(self, block: bytes) -> list[tuple[int, Piece]]:
        return pieces(block)


def _with_cost(data: bytes, cost_usd: str) -> bytes | None:
    """Return a piece with the cost in its usage; None where it has none."""
    try:
        fields: dict[str, Any] = dict(_FIELDS.decode(data))
        usage = _FIELDS.decode(fields[_USAGE])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        return None
    return msgspec.json.encode({**fields, _USAGE: {**usage, "cost_usd": cost_usd}})
