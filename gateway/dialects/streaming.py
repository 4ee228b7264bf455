"""The tap on a stream of server-sent events: bytes pass, usage is seen, the end is held back until it is paid for.

This file owns three rules. **Bytes pass untouched**: what `feed` and `finish` return is, joined, what came in, but for
the usage chunk that the gateway itself asked for (removed whole), the `"usage": null` that providers put into all other
chunks then, and the cost that the client asked for (added to one event, whose outer JSON loses its spaces). **The end
is held**: from the event `data: [DONE]` on, bytes come out of `finish` alone, which the caller calls after the debit is
durable. **Nothing grows without bound**: `MAX_EVENT_BYTES` of one event or of held bytes, `MAX_KEPT_BYTES` of what
passed.

Events and line ends are as in https://html.spec.whatwg.org/multipage/server-sent-events.html, but for lines that end
with a lone carriage return, which no provider sends: such a stream would pass unread.

While nothing is removed or changed, an event cut by the end of a chunk is passed on at once; else it waits until it is
whole. A chunk of whole events without a marker costs a few byte searches; of one that has a marker only the events from
the first marker on are looked at, and only those with a marker are decoded.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Final

from gateway.dialects.base import EventReader, Reported
from gateway.dialects.output import Output, Piece, joined

MAX_EVENT_BYTES: Final = 1 << 20
"""An event above this passes undecoded; of bytes after the terminal event no more than this are kept."""
MAX_KEPT_BYTES: Final = 4 << 20
"""Of what passed, for `output_text`; beyond it only the length is counted."""

_DONE: Final = b"[DONE]"
_DONE_LINE: Final = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)
_DONE_STARTS: Final = (b"data: [DONE]", b"data:[DONE]")
_ERROR: Final = b'"error"'
_EVENT_END: Final = re.compile(rb"\n\r?\n")
_EVENT_END_BYTES: Final = 3
_ENDS: Final = (b"\n\n", b"\n\r\n")


class SseTap:
    """Watches one stream. Not for use by two tasks at once.

    `strip_usage` removes the chunk that is there for its usage alone, and usage that is null. `hold_usage` holds the
    last event with usage for `finish`, which adds the cost; content after it releases it as it is. Public, to read at
    any time: `reported` (the last usage seen: counts in a stream are cumulative, never added), `stale` (it does not say
    all), `done`, `began_output` (the model wrote something), `error_seen` (an error event passed).
    """

    __slots__ = (
        "_began",
        "_done",
        "_end",
        "_ended",
        "_held",
        "_hold_usage",
        "_keep_bytes",
        "_kept",
        "_kept_bytes",
        "_looked_at",
        "_looked_into",
        "_oversize",
        "_partial",
        "_read_on",
        "_reader",
        "_reported_at",
        "_sent_bytes",
        "_strip_usage",
        "_terminated",
        "_unfinished",
        "_unkept_bytes",
        "_usage_marker",
        "error_seen",
        "reported",
    )

    def __init__(
        self,
        reader: EventReader,
        *,
        strip_usage: bool = False,
        hold_usage: bool = False,
        keep_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self.reported: Reported | None = None
        self.error_seen = False
        self._reader = reader
        self._usage_marker = reader.usage_marker
        self._strip_usage = strip_usage
        self._hold_usage = hold_usage
        self._keep_bytes = keep_bytes
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._done = False
        self._began = False
        self._looked_at = 0  # how many of what is kept were searched for the end
        self._looked_into = 0  # and for output
        self._unkept_bytes = 0
        self._reported_at = (0, 0)  # how many blocks were kept, and bytes were not, when usage was last seen
        self._read_on = False  # its block has further events
        self._partial = bytearray()  # the event that is not whole yet
        self._sent_bytes = 0  # how much of it has been passed on
        self._oversize = False  # it is above its bound, and passes unread
        self._held = bytearray()  # hold_usage: the last event with usage, and comments after it
        self._end = bytearray()  # the terminal event and what follows
        self._unfinished: list[tuple[int, Piece]] = []  # what can be told of a last event that broke off
        self._terminated = False
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether the terminal event or a choice's finish reason was seen. It is looked for when this is asked, in the
        last events first, and not in every event that passes."""
        if not self._done:
            self._done = any(map(self._finishes, reversed(self._kept[self._looked_at :])))
            self._looked_at = len(self._kept)
        return self._done

    @property
    def began_output(self) -> bool:
        """Whether the model wrote something. Looked for when this is asked, in the first events first."""
        if not self._began:
            self._began = any(any(self._pieces(block)) for block in self._kept[self._looked_into :])
            self._looked_into = len(self._kept)
        return self._began

    def _finishes(self, block: bytes) -> bool:
        return any(marker in block for marker in self._reader.finish_markers)

    def feed(self, chunk: bytes) -> bytes:
        """The bytes to pass to the client now, for the next bytes from the provider."""
        if self._terminated:
            self._keep_end(chunk)
            return b""
        if self._partial or not chunk.endswith(_ENDS):
            return self._feed_cut(chunk)
        return self._pass(chunk)

    def end(self) -> None:
        """The provider has ended its stream: read what stands in an unfinished last event. Call before `reported`."""
        if self._ended:
            return
        self._ended = True
        last, self._partial = bytes(self._partial), bytearray()
        if last and not self._terminated:
            out = last[self._sent_bytes :] if self._oversize else self._pass(last, self._sent_bytes)
            self._end[:0] = out
            if not self._oversize and not any(self._pieces(last)):
                self._unfinished = self._reader.pieces_of_part(event_data(last))
                self._began = self._began or bool(self._unfinished)
        self._terminated = True

    def finish(self, cost_usd: str | None = None) -> bytes:
        """The bytes that were held back; once, then none. `cost_usd` goes into the held usage event, if any."""
        self.end()
        held = self._with_cost(bytes(self._held), cost_usd) if cost_usd is not None else bytes(self._held)
        rest = held + bytes(self._end)
        self._held.clear()
        self._end.clear()
        return rest

    @property
    def stale(self) -> bool:
        """Whether the model wrote on after the last usage was seen, so that it does not say all. Looked for when this
        is asked, in what came after it."""
        kept, unkept_bytes = self._reported_at
        if unkept_bytes != self._unkept_bytes:
            return True
        if self._read_on and kept and any(self._pieces(self._after_usage(self._kept[kept - 1]))):
            return True
        return bool(self._unfinished) or any(any(self._pieces(block)) for block in self._kept[kept:])

    def _after_usage(self, block: bytes) -> bytes:
        """The events of a block that follow its last one with usage."""
        events = list(_events(block))
        while events and self._reader.usage_pattern.search(events[-1]) is None:
            events.pop()
        return block[sum(map(len, events)) :]

    def output(self) -> Output:
        """What the model wrote in the whole events within `MAX_KEPT_BYTES`; see `extrapolate`."""
        return joined([*(pair for block in self._kept for pair in self._pieces(block)), *self._unfinished])

    def extrapolate(self, tokens: int) -> int:
        """Tokens of the whole stream from those of `output`, by the share of its bytes that was kept, rounded up.

        Where nothing that was kept says anything: the bytes that passed, which no count of tokens exceeds.
        """
        if not self._unkept_bytes:
            return tokens
        if not tokens:
            return self._unkept_bytes
        return -(-tokens * (self._kept_bytes + self._unkept_bytes) // self._kept_bytes)

    def _pass(self, block: bytes, sent_bytes: int = 0) -> bytes:
        """A block of whole events, of which `sent_bytes` are out. The common path: nothing in it is of interest."""
        find = block.find  # `in` asks for a buffer first, which takes as long as the search
        usage = find(self._usage_marker)
        if usage >= 0 and self._strip_usage:  # nothing of it is out yet
            block = self._reader.without_null_usage(block)
            find = block.find
            usage = find(self._usage_marker)
        kept_bytes = self._kept_bytes + len(block)
        if kept_bytes <= self._keep_bytes:
            self._kept.append(block)
            self._kept_bytes = kept_bytes
        else:
            self._unkept_bytes += len(block)
            self._done = self._done or self._finishes(block)
            self._began = self._began or any(self._pieces(block))
        done, error = find(_DONE), find(_ERROR)
        if usage >= 0:
            match = self._reader.usage_pattern.search(block, usage)
            usage = match.start() if match is not None else -1
        if self._held:
            return self._inspect(block, sent_bytes, 0)
        if done < 0 and error < 0 and usage < 0:
            return block[sent_bytes:] if sent_bytes else block
        first = min(at for at in (done, error, usage) if at >= 0)
        return self._inspect(block, sent_bytes, _last_end(block, 0, first))

    def _feed_cut(self, chunk: bytes) -> bytes:
        """A chunk that begins or ends within an event."""
        partial = self._partial
        if partial:
            search_from = max(0, len(partial) - _EVENT_END_BYTES + 1)
            partial += chunk
            end = _last_end(partial, search_from)
            block = bytes(partial[:end])
            del partial[:end]
        else:
            end = _last_end(chunk, 0)
            block = chunk[:end]
            partial += chunk[end:]
        if not end:
            return self._feed_unfinished()
        sent_bytes, self._sent_bytes = self._sent_bytes, 0
        out = b""
        if self._oversize:
            self._oversize = False
            match = _EVENT_END.search(block)
            tail_bytes = match.end() if match else len(block)
            out = block[sent_bytes:tail_bytes]
            block, sent_bytes = block[tail_bytes:], 0
        if block:
            out += self._pass(block, sent_bytes)
        if self._terminated:
            self._keep_end(bytes(partial))
            partial.clear()
            return out
        return out + self._feed_unfinished() if partial else out

    def _feed_unfinished(self) -> bytes:
        """What may pass of an event that is not whole."""
        partial = self._partial
        if not self._oversize and len(partial) > MAX_EVENT_BYTES:
            self._oversize = self._began = True  # nobody reads it, and it is too long to be nothing
            self._unkept_bytes += self._sent_bytes
        if self._oversize:
            out = bytes(self._held + partial[self._sent_bytes :])
            self._held.clear()
            self._unkept_bytes += len(out)
            del partial[: 1 - _EVENT_END_BYTES]
            self._sent_bytes = len(partial)
            return out
        if self._strip_usage or self._hold_usage:
            return b""
        pass_to = self._terminal_line(partial, self._sent_bytes)
        out = bytes(partial[self._sent_bytes : pass_to])
        self._sent_bytes = pass_to
        return out

    @staticmethod
    def _terminal_line(partial: bytearray, sent_bytes: int) -> int:
        """Where, in what is not sent, a line begins that is or may become the terminal one; else the end."""
        if partial.find(_DONE, sent_bytes) >= 0 and (match := _DONE_LINE.search(partial, sent_bytes)):
            return match.start()
        newline = partial.rfind(b"\n", max(0, sent_bytes - 1))
        if newline < 0 and sent_bytes:
            return len(partial)  # a part of the last line is out
        line = bytes(partial[newline + 1 : newline + 1 + len(_DONE_STARTS[0])])
        return newline + 1 if any(start.startswith(line) for start in _DONE_STARTS) else len(partial)

    def _inspect(self, block: bytes, sent_bytes: int, start: int) -> bytes:
        """Looks at each event of a block from the one that begins at `start`; what is to pass of it."""
        out = [block[sent_bytes:start]] if start > sent_bytes else []
        for event in _events(block, start):
            data = event_data(event)
            if data.strip() == _DONE:
                self._done = self._terminated = True
                self._keep_end(block[max(start, sent_bytes) :])
                break
            self._look(event[max(0, sent_bytes - start) :], data, out)
            start += len(event)
        return b"".join(out)

    def _look(self, unsent: bytes, data: bytes, out: list[bytes]) -> None:
        """One event: what it says, and where its unsent bytes go."""
        has_usage = self._reader.usage_pattern.search(data) is not None
        if has_usage or _ERROR in data:
            facts = self._reader.facts(data)
            has_usage = facts.has_usage
            self.error_seen = self.error_seen or facts.is_error
            if facts.reported is not None:
                self.reported, self._read_on = facts.reported, False
                self._reported_at = (len(self._kept), self._unkept_bytes)
            if self._strip_usage and facts.is_usage_only:
                out.append(unsent[: len(unsent) - len(unsent.lstrip(b"\r\n"))])
                return
        if not has_usage:
            self._read_on = True
        if self._held and (data or len(self._held) + len(unsent) > MAX_EVENT_BYTES):
            out.append(bytes(self._held))
            self._held.clear()
        if self._held or (self._hold_usage and has_usage):
            self._held += unsent
        else:
            out.append(unsent)

    def _keep_end(self, tail: bytes) -> None:
        self._end += tail[: MAX_EVENT_BYTES - len(self._end)]

    def _with_cost(self, held: bytes, cost_usd: str) -> bytes:
        """The held bytes with the cost in the data of their first event, its lines joined into one."""
        out = bytearray()
        for number, event in enumerate(_events(held)):
            out += _replace_data(event, self._reader.with_cost(event_data(event), cost_usd)) if not number else event
        return bytes(out)

    def _pieces(self, block: bytes) -> Iterator[tuple[int, Piece]]:
        for event in _events(block):
            if data := event_data(event):
                yield from self._reader.pieces(data)


def _last_end(text: bytes | bytearray, search_from: int, search_to: int | None = None) -> int:
    """Where the last event ends that is whole before `search_to`, or else the end; 0 where none is."""
    bare = text.rfind(b"\n\n", search_from, search_to)
    returned = text.rfind(b"\n\r\n", bare if bare > search_from else search_from, search_to)
    return max(bare + 2 if bare >= 0 else 0, returned + 3 if returned >= 0 else 0)


def _events(block: bytes, start: int = 0) -> Iterator[bytes]:
    """The events of a block from `start` on, each with the empty line that ends it; joined they are the rest of it."""
    for match in _EVENT_END.finditer(block, start):
        yield block[start : match.end()]
        start = match.end()
    if start < len(block):
        yield block[start:]


def event_data(event: bytes) -> bytes:
    """The `data` of one event, its lines joined by newlines; empty for comments alone. A byte order mark before it is
    passed over, as clients do; a line that is JSON by itself is data to whoever wants it."""
    lines = []
    for line in event.removeprefix(codecs.BOM_UTF8).split(b"\n"):
        if line.startswith(b"{"):
            lines.append(line)
        if line.startswith(b"data:"):
            lines.append(line[6 if line.startswith(b"data: ") else 5 :].removesuffix(b"\r"))
    return b"\n".join(lines)


def _replace_data(event: bytes, data: bytes) -> bytes:
    """The event with its first data line replaced and further ones left out; all other lines as they were."""
    out = bytearray()
    replaced = False
    for line in event.splitlines(keepends=True):
        if not line.startswith(b"data:"):
            out += line
        elif not replaced:
            replaced = True
            out += b"data: " + data + line[len(line.rstrip(b"\r\n")) :]
    return bytes(out)
