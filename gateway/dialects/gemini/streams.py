"""Gemini's format, streams: server-sent events (`alt=sse`), or one JSON array that is sent an object at a time.

This file owns three rules, in both framings. **Bytes pass untouched**: what `feed` and `finish` return is, joined, what
came in, but for a cost that the client asked for. **The end is held**: there is no event that says so, hence the last
piece in which a candidate finishes comes out of `finish` alone, with all that follows it, unless the model writes on.
**Nothing grows without bound**: `MAX_PIECE_BYTES` of one piece, `MAX_HELD_BYTES` of what follows the last one,
`streaming.MAX_KEPT_BYTES` of what passed.

A piece passes when it is whole: Google sends each in one write, and usage stands in every one of them.

Events that end nothing cost a few byte searches when they pass, together; their usage is read when it is asked for, or
when `MAX_UNREAD_BYTES` wait, so that no turn of the event loop has much of it to read.

`Frames` cut a stream into its pieces. None above `MAX_PIECE_BYTES` is kept: it passes unread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from gateway.dialects.body import decoded, is_null
from gateway.dialects.gemini.answer import ANSWER, END_MARKERS, OUTPUT, Answer, Reading, finishes
from gateway.dialects.reader import with_charge
from gateway.dialects.streaming import (
    ENDS,
    EVENT_END_BYTES,
    MAX_KEPT_BYTES,
    MAX_PLAIN_BYTES,
    Passed,
    event_data,
    last_end,
    replace_data,
    split_events,
)

if TYPE_CHECKING:
    from gateway.dialects.facts import Reported
    from gateway.dialects.output import Piece


# A piece above this passes unread; one that has a picture takes megabytes, and its usage stands behind that.
MAX_PIECE_BYTES: Final = 32 << 20
# What stands before a bracket, or before a string that is not whole.
_BEFORE_SIGN: Final = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_IN_STRING: Final = re.compile(rb'["\\]')
_QUOTE, _BACKSLASH, _OBJECT, _LIST, _OBJECT_END, _LIST_END = b'"\\{[}]'
# Bytes of a stream as they came; of them what is read, the pieces in them, for `Frames.objects`; whether one of these
# has a marker, so that it may end something.
Frame = tuple[bytes, bytes, bool]


class Frames:
    """Cuts a stream into pieces, at most `max_bytes` each. `closed`: its framing does not ask for more, `closing`: it
    has said that nothing follows; `unread_bytes` passed in pieces above the bound."""

    closed = False
    closing = False

    def __init__(self, max_bytes: int = MAX_PIECE_BYTES) -> None:
        self.unread_bytes = 0
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    def plain(self, chunk: bytes) -> bool:
        """Return whether these bytes are whole pieces none of which may end something, so that `feed` is not needed."""
        return False

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the pieces that are whole by now."""
        raise NotImplementedError

    def rest(self) -> Frame:
        """Return what is left of a piece that did not become whole."""
        raise NotImplementedError

    def objects(self, data: bytes) -> Iterable[bytes]:
        """Return the JSON objects in the data of a frame."""
        return (data,)

    def last(self, data: bytes) -> bytes:
        """Return the last of them."""
        return data

    def lines(self, data: bytes) -> bytes:
        """Return the same in one: a line each where the data is as usual, else perhaps no JSON at all."""
        return data

    def split(self, frame: Frame) -> Iterable[Frame]:
        """Return the same bytes, at most one object in each frame."""
        return (frame,)

    def with_data(self, frame: bytes, data: bytes, other: bytes) -> bytes:
        """Return the bytes of a piece with another object in it."""
        before, _, after = frame.rpartition(data)
        return before + other + after


def _first_marker(block: bytes) -> int:
    """Return where the first of the markers stands, below 0 where none does."""
    first = -1
    for marker in END_MARKERS:
        at = block.find(marker, 0, first if first >= 0 else len(block))
        first = at if at >= 0 else first
    return first


class EventFrames(Frames):
    """Server-sent events. They have no end of their own."""

    closed = True

    def __init__(self, max_bytes: int = MAX_PIECE_BYTES) -> None:
        super().__init__(max_bytes)
        self._unread = False
        self._searched, self._first_at = b"", -1  # bytes that were searched for markers, and where the first stands

    def plain(self, chunk: bytes) -> bool:
        """Return whether these are whole events without a marker."""
        if self._buffer or self._unread or not chunk.endswith(ENDS):
            return False
        self._searched, self._first_at = chunk, _first_marker(chunk)
        return self._first_at < 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the events that are whole by now; those before the first that may end something in one frame."""
        buffer = self._buffer
        if not buffer and chunk.endswith(ENDS):
            return self._framed(chunk)
        search_from = max(0, len(buffer) - EVENT_END_BYTES + 1)
        buffer += chunk
        end = last_end(buffer, search_from)
        found: list[Frame] = []
        if end:
            block = bytes(buffer[:end])
            del buffer[:end]
            found = self._framed(block)
        if len(buffer) > self._max_bytes:
            found.append((bytes(buffer[: 1 - EVENT_END_BYTES]), b"", False))
            del buffer[: 1 - EVENT_END_BYTES]
            self.unread_bytes += len(found[-1][0])
            self._unread = True
        return found

    def _framed(self, block: bytes) -> list[Frame]:
        found: list[Frame] = []
        if self._unread:  # the first event's beginning has passed unread
            self._unread = False
            first = next(split_events(block))
            self.unread_bytes += len(first)
            found.append((first, b"", False))
            block = block[len(first) :]
        first_at = self._first_at if block is self._searched else _first_marker(block)
        self._searched = b""
        start = last_end(block, 0, first_at) if first_at >= 0 else len(block)
        if start:
            found.append((before := block[:start], before, False))
        if start < len(block):
            found += [(event, event, True) for event in split_events(block, start)]
        return found

    def rest(self) -> Frame:
        """Return what is left of an event that did not become whole."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest, b"" if self._unread else rest, True

    def objects(self, data: bytes) -> Iterable[bytes]:
        """Return the data of each event."""
        return [found for event in split_events(data) if (found := event_data(event))]

    def last(self, data: bytes) -> bytes:
        """Return the data of the last event."""
        return event_data(data[last_end(data, 0, len(data) - 1) :])

    def lines(self, data: bytes) -> bytes:
        """Return them without the name of their field. No JSON has a newline within a string, so none is changed."""
        return b"\n".join(data.removeprefix(b"data: ").split(b"\ndata: "))  # `replace` takes three times as long

    def split(self, frame: Frame) -> Iterable[Frame]:
        """Return a frame of each event; of one that is not read the frame itself."""
        raw, data, marked = frame
        return [(event, event, marked) for event in split_events(raw)] if data else [frame]

    def with_data(self, frame: bytes, data: bytes, other: bytes) -> bytes:
        """Return the event with other data."""
        return replace_data(frame, other)


class ArrayFrames(Frames):
    """A JSON array of objects; or one object alone, which is an error. What stands between two objects goes with the
    second."""

    def __init__(self, max_bytes: int = MAX_PIECE_BYTES) -> None:
        super().__init__(max_bytes)
        self._at = 0  # how far it has been read
        self._begins: int | None = None  # where the object begins
        self._depth = 0
        self._base = -1  # the depth around an object, -1 before anything came
        self._in_string = False

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the objects that are whole by now, and the bracket that ends them."""
        buffer = self._buffer
        buffer += chunk
        found: list[Frame] = []
        start = 0
        while not self.closed and self._step():
            if self._depth == self._base or self.closed:
                data = (
                    b"" if self._begins is None or self._depth != self._base else bytes(buffer[self._begins : self._at])
                )
                found.append((bytes(buffer[start : self._at]), data, True))
                start, self._begins = self._at, None
        if self.closed or len(buffer) - start > self._max_bytes:
            if start < len(buffer):
                found.append((bytes(buffer[start:]), b"", False))
                self.unread_bytes += 0 if self.closed else len(found[-1][0])
            start = self._at = len(buffer)
            self._begins = None
        del buffer[:start]
        self._at -= start
        self._begins = None if self._begins is None else self._begins - start
        return found

    def _step(self) -> bool:
        """Look at the next sign; return whether an object or the array ended with it, after which `_at` stands."""
        buffer = self._buffer
        while True:
            if self._in_string and not self._end_string():
                return False
            before = _BEFORE_SIGN.match(buffer, self._at)
            at = before.end() if before is not None else self._at
            if at == len(buffer):
                self._at = at
                return False
            sign = buffer[at]
            self._at = at + 1
            if sign == _QUOTE:
                self._in_string = True
            elif sign in (_OBJECT, _LIST):
                if self._base < 0:
                    self._base = 1 if sign == _LIST else 0
                if self._depth == self._base:
                    self._begins = at
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= self._base:
                    self.closed = self.closing = self._depth <= 0
                    return True

    def _end_string(self) -> bool:
        """Look for the end of a string that the buffer ended within; return whether it is there, after which `_at`
        stands."""
        buffer = self._buffer
        while (found := _IN_STRING.search(buffer, self._at)) is not None:
            if buffer[found.start()] == _QUOTE:
                self._at, self._in_string = found.end(), False
                return True
            if found.end() == len(buffer):  # the escaped character has not come yet
                self._at = found.start()
                return False
            self._at = found.end() + 1
        self._at = len(buffer)
        return False

    def rest(self) -> Frame:
        """Return what is left of an object that did not become whole."""
        rest = bytes(self._buffer)
        data = b"" if self._begins is None else rest[self._begins :]
        self._buffer.clear()
        self._at, self._begins = 0, None
        return rest, data, True


# Of what follows the last piece, before it passes.
MAX_HELD_BYTES: Final = 1 << 20
_USAGE: Final = ("usageMetadata",)
NO_ANSWER: Final = Answer()
# Parts of an answer that say that a tool runs at the provider; within a text the quotes are escaped.
_TOOL_CALL: Final = re.compile(rb'"(?:executableCode|toolCall)"\s*:\s*\{')


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
        if data and self._keep_and_check_end(data, marked):
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

    def _keep_and_check_end(self, data: bytes, marked: bool) -> bool:
        """Keep the data of a frame; return whether a candidate finishes in it, or an error says that no more comes."""
        self._keep(data)
        if not marked or all(data.find(marker) < 0 for marker in END_MARKERS):
            return False
        ends = False
        for each in self._frames.objects(data):
            answer = decoded(ANSWER, each)
            if answer is None:
                continue
            is_error, finished = not is_null(answer.error), finishes(answer, each)
            self.error_seen = self.error_seen or is_error
            self._finished = self._finished or finished
            ends = ends or is_error or finished
        return ends

    def _keep(self, data: bytes) -> None:
        """Keep the data of a frame, whose usage is read later, at the latest when it is packed; read that at once where
        there is no room for more."""
        if self._kept_bytes + len(data) <= self._keep_bytes:
            if self._kept_bytes + len(data) - self._packed_bytes > MAX_PLAIN_BYTES and self._kept:
                self._pack()
            self._kept.append(data)
            self._kept_bytes += len(data)
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
        self._is_made = False
        new = self._kept[left:]
        pieces, frames, reading = new[0] if len(new) == 1 else b"".join(new), self._frames, self._reading
        alike = reading.add_alike(pieces, frames.last(new[-1]))
        if alike or (len(new) > 1 and reading.add_lines(frames.lines(pieces))):
            self._note_usage(self._read)
            return
        for number in range(left, self._read):
            self._read_usage(self._kept[number], number + 1)

    def _note_usage(self, kept: int) -> None:
        """Note that usage was read where so much was kept."""
        self._note_reported(kept, self._passed_unkept_bytes)
        self._after = []

    def _search_kept(self) -> None:
        self._read_kept()
        self._tool_calls = self.tool_calls
        self._read = self._calls_counted = 0

    def _read_usage(self, data: bytes, kept: int) -> None:
        """Read the usage in one block, where `kept` blocks are kept with it."""
        reading, frames = self._reading, self._frames
        if reading.add_lines(frames.lines(data)):
            self._note_usage(kept)
            return
        for each in frames.objects(data):
            if reading.add(decoded(ANSWER, each) or NO_ANSWER, each):
                self._note_usage(kept)
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
            if data and not self._keep_and_check_end(data, marked):
                says = any(self._pieces(data))
                self._unfinished = [] if says else OUTPUT.pieces_of_part(b"".join(self._frames.objects(data)))
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
                given = b"".join(self._frames.objects(data))
                changed = with_charge(given, _USAGE, charge_usd)
                if changed is not given:
                    held[number] = self._frames.with_data(raw, data, changed)
                    break
        self._held.clear()
        return b"".join(held)

    @property
    def stale(self) -> bool:
        """Return whether the model wrote on after the last usage was seen, so that it does not say all."""
        self._read_kept()
        return any(any(OUTPUT.pieces(each)) for each in self._after) or super().stale

    def _pieces(self, block: bytes) -> Iterator[tuple[int, Piece]]:
        for each in self._frames.objects(block):
            yield from OUTPUT.pieces(each)
