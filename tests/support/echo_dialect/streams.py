"""Streams: of named events, the last of them `farewell`, and of a JSON array, whose end is its bracket.

Both report usage in parts: what was read at the beginning, what was written at the end.
"""

import json
import re
from typing import Any, Final

from billing.usage import Usage
from gateway.dialects.facts import EventFacts, Reported
from gateway.dialects.output import Output, Piece, joined
from gateway.dialects.reader import EventReader


def usage_of(spent: dict[str, int]) -> Usage:
    """Counts that are not named are zero."""
    return Usage(input_tokens=spent.get("read", 0), output_tokens=spent.get("written", 0))


class EchoEvents(EventReader):
    """For one stream."""

    usage_marker = b'"spent"'
    usage_pattern = re.compile(rb'"spent"\s*:\s*\{')
    error_marker = b'"fault"'
    terminal_markers = (b"farewell",)
    terminal_lines = (b"event: farewell", b"event:farewell")

    tool_call_marker = b'"called"'
    tool_call_pattern = re.compile(rb'"called"\s*:\s*"')

    def __init__(self) -> None:
        self._spent: dict[str, int] = {}

    def is_terminal(self, event: bytes, data: bytes) -> bool:
        return event.startswith(self.terminal_lines)

    def facts(self, data: bytes) -> EventFacts:
        fields = _object(data)
        spent = fields.get("spent") or {}
        self._spent |= {name: count for name, count in spent.items() if count is not None}
        reported = Reported(usage_of(self._spent)) if spent else None
        return EventFacts(reported, has_usage=bool(spent), is_error="fault" in fields)

    def pieces(self, data: bytes) -> list[tuple[int, Piece]]:
        word = _object(data).get("word")
        return [(0, word)] if word else []

    def pieces_of_part(self, data: bytes) -> list[tuple[int, Piece]]:
        return [(0, data.decode(errors="replace"))] if b'"word"' in data else []

    def with_charge(self, data: bytes, charge_usd: str) -> bytes:
        fields = _object(data)
        return json.dumps({**fields, "spent": {**fields["spent"], "charge_usd": charge_usd}}).encode()


class ArrayTap:
    """A `Tap` for one JSON array with an object a line; the closing bracket is held."""

    def __init__(self) -> None:
        self.reported: Reported | None = None
        self.error_seen = False
        self._events = EchoEvents()
        self._line = b""
        self._end = b""
        self._pieces: list[tuple[int, Piece]] = []
        self._stale = False

    @property
    def began_output(self) -> bool:
        return bool(self._pieces)

    tool_calls: Final = 0

    @property
    def done(self) -> bool:
        return self._end.startswith(b"]")

    def feed(self, chunk: bytes) -> bytes:
        if self.done:
            self._end += chunk
            return b""
        *lines, self._line = (self._line + chunk).split(b"\n")
        sent = b""
        for line in lines:
            if self.done or line.startswith(b"]"):
                self._end += line + b"\n"
            else:
                self._read(line)
                sent += line + b"\n"
        if self.done or self._line.startswith(b"]"):
            self._end, self._line = self._end + self._line, b""
        return sent

    def _read(self, line: bytes) -> None:
        data = line.strip(b"[,\r ")
        facts, pieces = self._events.facts(data), self._events.pieces(data)
        self.error_seen = self.error_seen or facts.is_error
        self._pieces += pieces
        self._stale = bool(pieces) or self._stale
        if facts.reported is not None:
            self.reported, self._stale = facts.reported, False

    def end(self) -> None:
        if not self.done:
            self._read(self._line)

    def finish(self, charge_usd: str | None = None) -> bytes:
        return self._end

    @property
    def stale(self) -> bool:
        return self._stale

    def output(self) -> Output:
        return joined(self._pieces)

    def extrapolate(self, tokens: int) -> int:
        return tokens


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
