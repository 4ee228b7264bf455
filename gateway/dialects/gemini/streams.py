"""Gemini's format, streams: server-sent events (`alt=sse`), or one JSON array that is sent an object at a time.

This file owns three rules, in both framings. **Bytes pass untouched**: what `feed` and `finish` return is, joined, what
came in, but for a cost that the client asked for. **The end is held**: there is no event that says so, hence the last
piece in which a candidate finishes comes out of `finish` alone, with all that follows it, unless the model writes on.
**Nothing grows without bound**: `frames.MAX_PIECE_BYTES` of one piece, `MAX_HELD_BYTES` of what follows the last one,
`passed.MAX_KEPT_BYTES` of what passed.

A piece passes when it is whole: Google sends each in one write, and usage stands in every one of them.

Events that end nothing cost a few byte searches when they pass, together; their usage is read when it is asked for, or
when `MAX_UNREAD_BYTES` wait, so that no turn of the event loop has much of it to read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.events import CHARGE_FIELDS
from gateway.dialects.exceptions import GarbageAnswer
from gateway.dialects.fields import is_null
from gateway.dialects.gemini.answer import END_MARKERS, Answer, Reading, decode, finishes
from gateway.dialects.gemini.output import pieces, pieces_of_part
from gateway.dialects.passed import MAX_KEPT_BYTES, Passed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.dialects.facts import Reported
    from gateway.dialects.gemini.frames import Frame, Frames
    from gateway.dialects.output import Piece

MAX_HELD_BYTES: Final = 1 << 20
"""Of what follows the last piece, before it passes."""
MAX_UNREAD_BYTES: Final = 64 << 10
"""The most that is kept of a stream before its usage is read."""
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_USAGE: Final = "usageMetadata"
_TOOL_CALL: Final = re.compile(rb'"(?:executableCode|toolCall)"\s*:\s*\{')
"""Parts of an answer that say that a tool runs at the provider; within a text the quotes are escaped."""


class GeminiTap(Passed):
    """Watches one stream; a `Tap`. Not for use by two tasks at once."""

    def __init__(self, frames: Frames, keep_bytes: int = MAX_KEPT_BYTES) -> None:
        super().__init__(keep_bytes)
        self.error_seen = False
        self._frames = frames
        self._reading = Reading()
        self._made: Reported | None = None  # of the events so far
        self._is_made = False
        self._uncounted = False  # there is output without a count
        self._read = 0  # of how many blocks of what is kept the usage was read
        self._unread_kept_bytes = 0  # in the others
        self._passed_unkept_bytes = 0  # that were not kept when those came
        self._after: list[bytes] = []  # objects that follow the last usage in its block
        self._finished = False  # a candidate has, and nothing was written since then
        self._held: list[Frame] = []
        self._held_bytes = 0  # but for the first
        self._ended = False
        self._calls_counted = self._tool_calls = 0  # how many of what is kept were searched for calls of tools

    @property
    def tool_calls(self) -> int:
        """Return how many calls of tools at the provider were told of. Counted when this is asked."""
        new = self._kept[self._calls_counted :]
        self._tool_calls += sum(len(_TOOL_CALL.findall(block)) for block in new)
        self._calls_counted = len(self._kept)
        return self._tool_calls

    @property
    def reported(self) -> Reported | None:
        """Return the usage as it is known by now. Made when this is asked: it stands in every piece."""
        self._read_kept()
        if not self._is_made:
            self._made, self._is_made = self._reading.reported(), True
        return None if self._uncounted else self._made

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
        if not self._held and self._frames.plain(chunk):
            self._keep(chunk)
            return chunk
        frames = self._frames.feed(chunk)
        if self._unkept_bytes != self._passed_unkept_bytes:
            self._read_kept()
            self._passed_unkept_bytes = self._unkept_bytes
        if len(frames) == 1:
            return self._pass(frames[0])
        return b"".join([self._pass(frame) for frame in frames])

    def _pass(self, frame: Frame) -> bytes:
        """Return what may pass by now, once a piece has come."""
        raw, data, marked = frame
        if data and self._look(data, marked):
            out = self._release()
        elif self._held and any(self._pieces(data)):
            self._finished = False  # the model writes on
            return self._release() + raw
        elif not self._held and not self._frames.closing:
            return raw
        else:
            out = self._release() if self._held_bytes + len(raw) > MAX_HELD_BYTES else b""
        self._held_bytes += len(raw) if self._held else 0
        self._held += self._frames.split(frame)
        return out

    def _release(self) -> bytes:
        released = b"".join(raw for raw, *_ in self._held)
        self._held.clear()
        self._held_bytes = 0
        return released

    def _look(self, data: bytes, marked: bool) -> bool:
        """Keep the data of a frame; return whether a candidate finishes in it, or an error says that no more comes."""
        self._keep(data)
        if not marked or all(data.find(marker) < 0 for marker in END_MARKERS):
            return False
        ends = False
        for each in self._frames.objects(data):
            try:
                answer = decode(each)
            except GarbageAnswer:
                continue
            is_error, finished = not is_null(answer.error), finishes(answer, each)
            self.error_seen = self.error_seen or is_error
            self._finished = self._finished or finished
            ends = ends or is_error or finished
        return ends

    def _keep(self, data: bytes) -> None:
        """Keep the data of a frame, whose usage is read later; read that at once where there is no room for more."""
        if self._kept_bytes + len(data) <= self._keep_bytes:
            self._kept.append(data)
            self._kept_bytes += len(data)
            self._unread_kept_bytes += len(data)
            if self._unread_kept_bytes > MAX_UNREAD_BYTES:
                self._read_kept()
        else:
            self._read_kept()
            self._not_kept_bytes += len(data)
            self._passed_unkept_bytes, self._is_made = self._unkept_bytes, False
            self._read_usage(data, len(self._kept))

    def _read_kept(self) -> None:
        """Read the usage in what was kept since this was done last."""
        left, self._read = self._read, len(self._kept)
        if left == self._read:
            return
        self._unread_kept_bytes, self._is_made = 0, False
        if self._read - left > 1 and self._reading.take_lines(self._frames.lines(b"".join(self._kept[left:]))):
            self._reported_at, self._after = (self._read, self._passed_unkept_bytes), []
            return
        for number in range(left, self._read):
            self._read_usage(self._kept[number], number + 1)

    def _read_usage(self, data: bytes, kept: int) -> None:
        """Read the usage in one block, where `kept` blocks are kept with it."""
        reading, frames = self._reading, self._frames
        if reading.take_lines(frames.lines(data)):
            self._reported_at, self._after = (kept, self._passed_unkept_bytes), []
            return
        for each in frames.objects(data):
            try:
                answer = decode(each)
            except GarbageAnswer:
                answer = Answer()
            if reading.take(answer, each):
                self._reported_at, self._after = (kept, self._passed_unkept_bytes), []
            elif self._reported_at[0] == kept:
                self._after.append(each)

    def end(self) -> None:
        """Read, once the provider has ended its stream, what stands in an unfinished last piece. Call before
        `reported`."""
        if self._ended:
            return
        self._ended = True
        raw, data, marked = rest = self._frames.rest()
        if raw:
            if data and not self._look(data, marked):
                says = any(self._pieces(data))
                self._unfinished = [] if says else pieces_of_part(b"".join(self._frames.objects(data)))
                self._finished = self._finished and not self._unfinished and not says
            self._began = self._began or bool(self._unfinished)
            self._held += self._frames.split(rest)
        reported = self.reported if self.done else None
        nothing = reported is None or reported.counts_nothing or bool(reported.usage.output_tokens)
        self._uncounted = not nothing and self.began_output

    def finish(self, charge_usd: str | None = None) -> bytes:
        """Return the bytes that were held back; once, then none. `charge_usd` goes into the last usage among them."""
        self.end()
        held = [raw for raw, *_ in self._held]
        if charge_usd is not None:
            for number in reversed(range(len(held))):
                raw, data, _ = self._held[number]
                changed = _with_charge(b"".join(self._frames.objects(data)), charge_usd)
                if changed is not None:
                    held[number] = self._frames.with_data(raw, data, changed)
                    break
        self._held.clear()
        return b"".join(held)

    @property
    def stale(self) -> bool:
        """Return whether the model wrote on after the last usage was seen, so that it does not say all."""
        self._read_kept()
        return any(any(pieces(each)) for each in self._after) or super().stale

    def _pieces(self, block: bytes) -> Iterator[tuple[int, Piece]]:
        for each in self._frames.objects(block):
            yield from pieces(each)


def _with_charge(data: bytes, charge_usd: str) -> bytes | None:
    """Return a piece with the charge in its usage; None where it has none."""
    try:
        fields: dict[str, Any] = dict(_FIELDS.decode(data))
        usage = _FIELDS.decode(fields[_USAGE])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        return None
    return msgspec.json.encode({**fields, _USAGE: {**usage, **dict.fromkeys(CHARGE_FIELDS, charge_usd)}})
