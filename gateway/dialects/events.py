"""Server-sent events as bytes: where they end, what their data is, and an event with other data.

Line ends are as in https://html.spec.whatwg.org/multipage/server-sent-events.html, but for a lone carriage return.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Final

ENDS: Final = (b"\n\n", b"\n\r\n")
EVENT_END: Final = re.compile(rb"\n\r?\n")
EVENT_END_BYTES: Final = 3
"""The most that `EVENT_END` matches."""


def last_end(text: bytes | bytearray, search_from: int, search_to: int | None = None) -> int:
    """Return where the last event ends that is whole before `search_to`, or before the end; 0 where none is."""
    bare = text.rfind(b"\n\n", search_from, search_to)
    returned = text.rfind(b"\n\r\n", bare if bare > search_from else search_from, search_to)
    return max(bare + 2 if bare >= 0 else 0, returned + 3 if returned >= 0 else 0)


def split_events(block: bytes, start: int = 0) -> Iterator[bytes]:
    """Yield the events of a block from `start` on, each with the empty line that ends it; joined, they are the rest."""
    for match in EVENT_END.finditer(block, start):
        yield block[start : match.end()]
        start = match.end()
    if start < len(block):
        yield block[start:]


def event_data(event: bytes) -> bytes:
    """Return the `data` of one event, its lines joined by newlines; empty for comments alone.

    A byte order mark before it is passed over, as clients do; a line that is JSON by itself is read as data, too.
    """
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
