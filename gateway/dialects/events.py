"""Server-sent events as bytes: where they end, what their data is, and an event with other data.

Line ends are as in https://html.spec.whatwg.org/multipage/server-sent-events.html, but for a lone carriage return.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Raw

from gateway.dialects.decoding import FIELDS, UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

ENDS: Final = (b"\n\n", b"\n\r\n")
EVENT_END: Final = re.compile(rb"\n\r?\n")
# The most that `EVENT_END` matches.
EVENT_END_BYTES: Final = 3
# The text after a field's name, where the field is empty.
_NULLS: Final = (b":null", b": null")
_NEWLINE: Final = ord("\n")
_END: Final = b"\n\n"
_BRACE_END: Final = b"}\n\n"
_DATA_BYTES: Final = len(b"data: ")
# What a usage object says of the charge; the first is the name until the next release.
CHARGE_FIELDS: Final = ("cost_usd", "charge_usd")
EVENT_STREAM: Final = b"text/event-stream"


def last_end(text: bytes | bytearray, search_from: int, search_to: int | None = None) -> int:
    """Return where the last event ends that is whole before `search_to`, or before the end; 0 where none is. A newline
    alone is found fifty times as fast as two of them."""
    newline = text.rfind(b"\n", search_from, search_to)
    while newline > search_from:
        if text[newline - 1] == _NEWLINE or text.startswith(b"\n\r", max(search_from, newline - 2)):
            return newline + 1
        newline = text.rfind(b"\n", search_from, newline)
    return 0


def first_marked(
    block: bytes, start: int, positions: list[int], markers: Sequence[bytes], usage_pattern: re.Pattern[bytes]
) -> int:
    """Return where the first marker stands from `start` on, the block's size where none does.

    The first marker is that of usage, the second that of errors: a field of that name that is null says nothing.
    `positions` says where each marker was found last, below 0 where it is not there, and is brought up to date: no
    bytes are searched twice for the same one, however many events have another.
    """
    size = len(block)
    for number, marker in enumerate(markers):
        at = positions[number]
        if at < start:
            at = block.find(marker, start)
        if number == 0:
            while 0 <= at < size and usage_pattern.match(block, at) is None:
                at = block.find(marker, at + 1)
        elif number == 1:
            while 0 <= at < size and block.startswith(_NULLS, at + len(marker)):
                at = block.find(marker, at + 1)
        positions[number] = at if at >= 0 else size
    return min(positions)


def split_events(block: bytes, start: int = 0) -> Iterator[bytes]:
    """Yield the events of a block from `start` on, each with the empty line that ends it; joined, they are the rest."""
    for match in EVENT_END.finditer(block, start):
        yield block[start : match.end()]
        start = match.end()
    if start < len(block):
        yield block[start:]


def first_event(block: bytes, start: int) -> bytes:
    """Return the first event from `start` on, with the empty line that ends it: as `split_events` would, by searches
    for one byte."""
    newline = block.find(b"\n", start)
    while newline >= 0:
        if block.startswith(ENDS, newline):
            return block[start : newline + (2 if block[newline + 1] == _NEWLINE else 3)]
        newline = block.find(b"\n", newline + 1)
    return block[start:]


def event_data(event: bytes) -> bytes:
    """Return the `data` of one event, its lines joined by newlines; empty for comments alone.

    A byte order mark before it is passed over, as clients do; a line that is JSON by itself is read as data, too.
    """
    if event.startswith(b"data: {") and event.find(b"\n") == len(event) - len(_END) and event.endswith(_BRACE_END):
        return event[_DATA_BYTES : -len(_END)]  # as nearly all are: one line
    lines = []
    for line in event.removeprefix(codecs.BOM_UTF8).split(b"\n"):
        if line.startswith(b"{"):
            lines.append(line)
        if line.startswith(b"data:"):
            lines.append(line[6 if line.startswith(b"data: ") else 5 :].removesuffix(b"\r"))
    return b"\n".join(lines)


def replace_data(event: bytes, data: bytes) -> bytes:
    """Return the event with its first data line replaced and further ones left out; all other lines as they were."""
    out = bytearray()
    replaced = False
    for line in event.splitlines(keepends=True):
        if not line.startswith(b"data:"):
            out += line
        elif not replaced:
            replaced = True
            out += b"data: " + data + line[len(line.rstrip(b"\r\n")) :]
    return bytes(out)


def after_last(block: bytes, pattern: re.Pattern[bytes]) -> bytes:
    """Return the events of a block that follow the last one in whose data a pattern is found."""
    events = list(split_events(block))
    while events and pattern.search(event_data(events[-1])) is None:
        events.pop()
    return block[sum(map(len, events)) :]


def with_charge(data: bytes, path: Sequence[str], charge_usd: str) -> bytes:
    """Return JSON with `charge_usd`, and `cost_usd`, its name until the next release, as the last fields of its usage
    object, which is found below the fields in `path`; all else as it was but for outer spaces, and the same object
    where it has none."""
    try:
        return _with_charge(data, path, charge_usd)
    except (*UNREADABLE, KeyError):
        return data


def _with_charge(data: bytes | Raw, path: Sequence[str], charge_usd: str) -> bytes:
    fields = FIELDS.decode(data)
    if path:
        fields[path[0]] = Raw(_with_charge(fields[path[0]], path[1:], charge_usd))
    else:
        fields |= dict.fromkeys(CHARGE_FIELDS, Raw(msgspec.json.encode(charge_usd)))
    return msgspec.json.encode(fields)


def change_first(events: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return some events with the data of the first one changed."""
    if (first := next(split_events(events), None)) is None:
        return events
    return replace_data(first, change(event_data(first))) + events[len(first) :]


def unsafe_from(partial: bytearray, start: int, lines: Collection[bytes]) -> int:
    """Return where, in what follows `start` of an event that is not whole, a line begins that is one of `lines`, begins
    with it or may become it; where there is none, the end."""
    for begins in lines:
        at = partial.find(begins, start)
        while at > 0 and partial[at - 1] != _NEWLINE:
            at = partial.find(begins, at + 1)
        if at >= 0:
            return at
    newline = partial.rfind(b"\n", max(0, start - 1))
    if newline < 0 and start:
        return len(partial)  # a part of the last line is out
    line = bytes(partial[newline + 1 :])
    return newline + 1 if any(begins.startswith(line) for begins in lines) else len(partial)
