"""Gemini's format, the framing of a stream: server-sent events, or one JSON array, cut into its pieces.

No piece above `MAX_PIECE_BYTES` is kept: it passes unread.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from gateway.dialects.events import ENDS, EVENT_END_BYTES, event_data, last_end, replace_data, split_events
from gateway.dialects.gemini.answer import END_MARKERS

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PIECE_BYTES: Final = 32 << 20
"""A piece above this passes unread; one that has a picture takes megabytes, and its usage stands behind that."""
_BEFORE_SIGN: Final = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""What stands before a bracket, or before a string that is not whole."""
_IN_STRING: Final = re.compile(rb'["\\]')
_QUOTE, _BACKSLASH, _OBJECT, _LIST, _OBJECT_END, _LIST_END = b'"\\{[}]'
Frame = tuple[bytes, bytes, bool]
"""Bytes of a stream as they came; of them what is read, the pieces in them, for `Frames.objects`; whether one of these
has a marker, so that it may end something."""


class Frames(Protocol):
    """Cuts a stream into pieces. `closed`: its framing does not ask for more, `closing`: it has said
    that nothing follows; `unread_bytes` passed in pieces above
    the bound."""

    closed: bool
    closing: bool
    unread_bytes: int

    def plain(self, chunk: bytes) -> bool:
        """Return whether these bytes are whole pieces none of which may end something, so that `feed` is not needed."""

    def feed(self, chunk: bytes) -> list[Frame]: ...

    def rest(self) -> Frame: ...

    def objects(self, data: bytes) -> Iterable[bytes]:
        """Return the JSON objects in the data of a frame."""

    def lines(self, data: bytes) -> bytes:
        """Return the same in one: a line each where the data is as usual, else perhaps no JSON at all."""

    def split(self, frame: Frame) -> Iterable[Frame]:
        """Return the same bytes, at most one object in each frame."""

    def with_data(self, frame: bytes, data: bytes, other: bytes) -> bytes: ...


def _first_marker(block: bytes) -> int:
    """Return where the first of the markers stands, below 0 where none does."""
    first = -1
    for marker in END_MARKERS:
        at = block.find(marker, 0, first if first >= 0 else len(block))
        first = at if at >= 0 else first
    return first


class EventFrames:
    """Server-sent events. They have no end of their own."""

    def __init__(self, max_bytes: int = MAX_PIECE_BYTES) -> None:
        self.closed, self.closing = True, False
        self.unread_bytes = 0
        self._buffer = bytearray()
        self._max_bytes = max_bytes
        self._unread = False
        self._looked_at, self._first_at = b"", -1  # bytes that were searched for markers, and where the first stands

    def plain(self, chunk: bytes) -> bool:
        """Return whether these are whole events without a marker."""
        if self._buffer or self._unread or not chunk.endswith(ENDS):
            return False
        self._looked_at, self._first_at = chunk, _first_marker(chunk)
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
        first_at = self._first_at if block is self._looked_at else _first_marker(block)
        self._looked_at = b""
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


class ArrayFrames:
    """A JSON array of objects; or one object alone, which is an error. What stands between two objects goes with the
    second."""

    def __init__(self, max_bytes: int = MAX_PIECE_BYTES) -> None:
        self.closed = self.closing = False
        self.unread_bytes = 0
        self._buffer = bytearray()
        self._max_bytes = max_bytes
        self._at = 0  # how far it has been read
        self._begins: int | None = None  # where the object begins
        self._depth = 0
        self._base = -1  # the depth around an object, -1 before anything came
        self._in_string = False

    def plain(self, chunk: bytes) -> bool:
        """Return false: nothing is known of a part of an array."""
        return False

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

    def objects(self, data: bytes) -> Iterable[bytes]:
        """Return the object."""
        return (data,)

    def lines(self, data: bytes) -> bytes:
        """Return the object."""
        return data

    def split(self, frame: Frame) -> Iterable[Frame]:
        """Return the frame."""
        return (frame,)

    def with_data(self, frame: bytes, data: bytes, other: bytes) -> bytes:
        """Return the bytes of a piece with another object in it."""
        before, _, after = frame.rpartition(data)
        return before + other + after
