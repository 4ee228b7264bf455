"""The tap on a stream of server-sent events: bytes pass, usage is seen, the end is held back until it is paid for.

This file owns three rules. **Bytes pass untouched**: what `feed` and `finish` return is, joined, what came in, but for
the usage chunk that the gateway itself asked for (removed whole), the `"usage": null` that providers put into all other
chunks then, and the cost that the client asked for (added to one event, whose outer JSON loses its spaces). **The end
is held**: from the terminal event on (OpenAI's is `data: [DONE]`), bytes come out of `finish` alone, which the caller
calls after the debit is durable. **Nothing grows without bound**: `MAX_EVENT_BYTES` of one event or of held bytes,
`MAX_KEPT_BYTES` of what passed. What an event says, and which one is terminal, is for an `EventReader` to tell.

A stream whose lines end with a lone carriage return, which no provider sends, would pass unread. While nothing is
removed or changed, an event cut by the end of a chunk is passed on at once. A chunk of whole events without a marker
costs a few byte searches; of one that has a marker only the events that have one are decoded.

What passed is kept for what is asked in the end: whether the model wrote, what, and after its usage. Nothing of it is
looked at before that, or before it is packed: the last `MAX_PLAIN_BYTES` are kept as they are, what came before them is
compressed, which makes a tenth of it. `MAX_KEPT_BYTES` of it are kept, of the rest its length alone.

Line ends are as in https://html.spec.whatwg.org/multipage/server-sent-events.html, but for a lone carriage return.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.dialects.output import Output, Piece, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from gateway.dialects.facts import Reported
    from gateway.dialects.reader import EventReader

ENDS: Final = (b"\n\n", b"\n\r\n")
EVENT_END: Final = re.compile(rb"\n\r?\n")
# The most that `EVENT_END` matches.
EVENT_END_BYTES: Final = 3
# The text after a field's name, where the field is empty.
_NULLS: Final = (b":null", b": null")
_NEWLINE: Final = ord("\n")
_END: Final = b"\n\n"
_DATA_BYTES: Final = len(b"data: ")


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
    if event.find(b"\n") == len(event) - 2 and event.startswith(b"data: ") and event.endswith(_END):
        return event[_DATA_BYTES:-2].removesuffix(b"\r")  # as nearly all are: one line
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


# Of what passed, for `output_text`; beyond it only the length is counted.
MAX_KEPT_BYTES: Final = 4 << 20
# Of that, as it is; the events of a long stream are much alike, so that what is packed is small.
MAX_PLAIN_BYTES: Final = 24 << 10
_PACK_LEVEL: Final = 3
_BLOCKS: Final = msgspec.msgpack.Decoder(list[bytes])


class Passed:
    """The part of a tap that keeps what passed, in blocks that `_pieces` reads: events, or JSON objects. A tap appends
    to it where the bytes pass, without a call."""

    __slots__ = (
        "_began",
        "_keep_bytes",
        "_kept",
        "_kept_bytes",
        "_not_kept_bytes",
        "_packed",
        "_packed_bytes",
        "_reported_at",
        "_searched_for_output",
        "_unfinished",
        "_wrote_on",
    )

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._kept: list[bytes] = []
        self._packed: tuple[bytes, ...] = ()
        self._kept_bytes = self._packed_bytes = self._not_kept_bytes = 0  # what is packed counts as it was kept
        self._wrote_on = False  # the model did in what is packed, after the last usage
        self._reported_at = (0, 0)  # how many blocks were kept, and bytes were not, when usage was last seen
        self._began = False
        self._searched_for_output = 0  # how many of what is kept were searched for output
        self._unfinished: Sequence[tuple[int, Piece]] = ()  # what can be told of a last block that broke off

    def _pieces(self, block: bytes) -> Iterable[tuple[int, Piece]]:
        """Return the output in one block."""
        raise NotImplementedError

    def _search_kept(self) -> None:
        """Look in what is kept for all that is asked of it but for the output, and forget where that was found."""
        raise NotImplementedError

    def _pack(self) -> None:
        """Compress what is kept as it is, before more is kept."""
        self._search_kept()
        self._wrote_on = self._wrote_after_usage()
        self._began = self.began_output
        self._packed += (zlib.compress(msgspec.msgpack.encode(self._kept), _PACK_LEVEL),)
        self._kept = []
        self._packed_bytes = self._kept_bytes
        self._searched_for_output, self._reported_at = 0, (0, self._reported_at[1])

    def _note_reported(self, kept: int, unkept_bytes: int) -> None:
        """Note that usage was seen when so much was kept, and not kept."""
        self._reported_at, self._wrote_on = (kept, unkept_bytes), False

    def _wrote_after_usage(self) -> bool:
        """Return whether the model wrote after the last usage in what was kept."""
        return self._wrote_on or any(any(self._pieces(block)) for block in self._kept[self._reported_at[0] :])

    @property
    def _unkept_bytes(self) -> int:
        """Return how much passed unread, or without being kept."""
        return self._not_kept_bytes

    @property
    def tool_calls(self) -> int:
        """Return how many calls of tools at the provider were told of in what is kept; 0 where the format has none."""
        return 0

    @property
    def began_output(self) -> bool:
        """Return whether the model wrote something. Looked for when this is asked, in what passed first."""
        if not self._began:
            self._began = any(any(self._pieces(block)) for block in self._kept[self._searched_for_output :])
            self._searched_for_output = len(self._kept)
        return self._began

    @property
    def stale(self) -> bool:
        """Return whether the model wrote on after the last usage was seen, so that it does not say all."""
        _, unkept_bytes = self._reported_at
        return unkept_bytes != self._unkept_bytes or bool(self._unfinished) or self._wrote_after_usage()

    def output(self) -> Output:
        """Return what the model wrote in the whole blocks within `MAX_KEPT_BYTES`; see `extrapolate`."""
        blocks = chain(*(_BLOCKS.decode(zlib.decompress(packed)) for packed in self._packed), self._kept)
        output = joined([*(pair for block in blocks for pair in self._pieces(block)), *self._unfinished])
        calls = self.tool_calls
        return msgspec.structs.replace(output, tool_calls=calls) if calls else output

    def extrapolate(self, tokens: int) -> int:
        """Return the tokens of the whole stream from those of `output`, by the share of its bytes that was kept,
        rounded up. Where nothing that was kept says anything: the bytes that passed beside them, which no count of
        tokens exceeds."""
        unkept_bytes = self._unkept_bytes
        if not unkept_bytes:
            return tokens
        if not tokens or not self._kept_bytes:  # an end that broke off is read, and not kept
            return tokens + unkept_bytes
        return -(-tokens * (self._kept_bytes + unkept_bytes) // self._kept_bytes)


_NOTHING: Final = bytearray()
# An event above this passes undecoded; of bytes after the terminal event no more than this are kept.
MAX_EVENT_BYTES: Final = 1 << 20


class SseTap(Passed):
    """Watches one stream. Not for use by two tasks at once.

    `strip_usage` removes the chunk that is there for its usage alone, and usage that is null. `hold_usage` holds the
    last event with usage for `finish`, which adds the cost; content after it releases it as it is. Public, to read at
    any time: `reported` (the last usage seen: counts in a stream are cumulative, never added), `stale` (it does not say
    all), `done`, `began_output` (the model wrote something), `error_seen` (an error event passed).
    """

    __slots__ = (
        "_calls_counted",
        "_done",
        "_end",
        "_ended",
        "_error_marker",
        "_held",
        "_hold_usage",
        "_other_markers",
        "_oversize",
        "_partial",
        "_read_on",
        "_reader",
        "_searched_for_end",
        "_sent_bytes",
        "_strip_usage",
        "_terminal_lines",
        "_terminal_markers",
        "_terminated",
        "_tool_calls",
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
        super().__init__(keep_bytes)
        self.reported: Reported | None = None
        self.error_seen = False
        self._reader = reader
        self._usage_marker = reader.usage_marker
        self._error_marker = reader.error_marker
        self._other_markers = (reader.error_marker, *reader.terminal_markers)
        self._terminal_markers = reader.terminal_markers
        self._terminal_lines = reader.terminal_lines
        self._strip_usage = strip_usage
        self._hold_usage = hold_usage
        self._done = False
        self._calls_counted = self._tool_calls = 0  # how many of what is kept were searched for calls of tools
        self._searched_for_end = 0  # how many of what is kept were searched for the end
        self._read_on = False  # its block has further events
        # Most streams need none of these buffers: each is made when something is put into it.
        self._partial = _NOTHING  # the event that is not whole yet
        self._sent_bytes = 0  # how much of it has been passed on
        self._oversize = False  # it is above its bound, and passes unread
        self._held = _NOTHING  # hold_usage: the last event with usage, and comments after it
        self._end = _NOTHING  # the terminal event and what follows
        self._terminated = False
        self._ended = False

    @property
    def done(self) -> bool:
        """Return whether the terminal event or a choice's finish reason was seen. It is looked for when this is asked,
        in the last events first, and not in every event that passes."""
        if not self._done:
            self._done = any(map(self._finishes, reversed(self._kept[self._searched_for_end :])))
            self._searched_for_end = len(self._kept)
        return self._done

    @property
    def tool_calls(self) -> int:
        """Return how many calls of tools at the provider were told of. Counted when this is asked, and not in every
        event that passes."""
        marker, search = self._reader.tool_call_marker, self._reader.tool_call_pattern.search
        for block in self._kept[self._calls_counted :] if marker else ():
            if marker in block:
                self._tool_calls += sum(marker in event and search(event) is not None for event in split_events(block))
        self._calls_counted = len(self._kept)
        return self._tool_calls

    def _finishes(self, block: bytes) -> bool:
        return any(marker in block for marker in self._reader.finish_markers)

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes to pass to the client now, for the next bytes from the provider."""
        if self._terminated:
            self._keep_end(chunk)
            return b""
        if self._partial or not chunk.endswith(ENDS):
            return self._feed_cut(chunk)
        return self._pass(chunk)

    def end(self) -> None:
        """Read what stands in an unfinished last event: the stream is over. Call before `reported`."""
        if self._ended:
            return
        self._ended = True
        last, self._partial = bytes(self._partial), _NOTHING
        if last and not self._terminated:
            out = last[self._sent_bytes :] if self._oversize else self._pass(last, self._sent_bytes)
            self._end = bytearray(out) + self._end
            if not self._oversize and not any(self._pieces(last)):
                self._unfinished = self._reader.pieces_of_part(event_data(last))
                self._began = self._began or bool(self._unfinished)
        self._terminated = True

    def finish(self, charge_usd: str | None = None) -> bytes:
        """Return the bytes that were held back; once, then none. `charge_usd` goes into a held usage event."""
        self.end()
        held = bytes(self._held)
        if charge_usd is not None:  # into the first event, comments may stand behind it
            held = change_first(held, lambda data: self._reader.with_charge(data, charge_usd))
        rest = held + bytes(self._end)
        self._held = self._end = _NOTHING
        return rest

    def _wrote_after_usage(self) -> bool:
        kept, _ = self._reported_at
        if self._read_on and kept and any(self._pieces(after_last(self._kept[kept - 1], self._reader.usage_pattern))):
            return True
        return super()._wrote_after_usage()

    def _search_kept(self) -> None:
        self._done, self._tool_calls = self.done, self.tool_calls
        self._searched_for_end = self._calls_counted = 0

    def _pass(self, block: bytes, sent_bytes: int = 0) -> bytes:
        """Pass a block of whole events, of which `sent_bytes` are out: mostly as it is, for nothing in it matters."""
        usage = block.find(self._usage_marker)  # `in` asks for a buffer first, which takes as long as the search
        if usage >= 0 and self._strip_usage:  # nothing of it is out yet
            block, usage = self._reader.without_null_usage(block, usage)
        kept_bytes = self._kept_bytes + len(block)
        if kept_bytes <= self._keep_bytes:
            if kept_bytes - self._packed_bytes > MAX_PLAIN_BYTES and self._kept:
                self._pack()
            self._kept.append(block)
            self._kept_bytes = kept_bytes
        else:
            self._not_kept_bytes += len(block)
            self._done = self._done or self._finishes(block)
            self._began = self._began or any(self._pieces(block))
        find, marked, held = block.find, usage >= 0, bool(self._held)
        positions = [usage]
        for marker in self._other_markers:
            positions.append(at := find(marker))
            marked = marked or at >= 0
        if held or (marked and self._marked(block, -1, positions) < len(block)):
            return self._inspect(block, sent_bytes, 0 if held else last_end(block, 0, min(positions)), positions)
        return block[sent_bytes:] if sent_bytes else block

    def _marked(self, block: bytes, start: int, positions: list[int]) -> int:
        """Return where the first marker stands: see `first_marked`."""
        markers = (self._usage_marker, *self._other_markers)
        return first_marked(block, start, positions, markers, self._reader.usage_pattern)

    def _feed_cut(self, chunk: bytes) -> bytes:
        """Take a chunk that begins or ends within an event."""
        partial = self._partial
        if partial:
            search_from = max(0, len(partial) - EVENT_END_BYTES + 1)
            partial += chunk
            end = last_end(partial, search_from)
            block = bytes(partial[:end])
            del partial[:end]
        else:
            end = last_end(chunk, 0)
            block = chunk[:end]
            partial = self._partial = bytearray(chunk[end:])
        if not end:
            return self._feed_unfinished()
        sent_bytes, self._sent_bytes = self._sent_bytes, 0
        out = b""
        if self._oversize:
            self._oversize = False
            match = EVENT_END.search(block)
            tail_bytes = match.end() if match else len(block)
            out = block[sent_bytes:tail_bytes]
            block, sent_bytes = block[tail_bytes:], 0
        if block:
            out += self._pass(block, sent_bytes)
        if self._terminated:
            self._keep_end(bytes(partial))
            self._partial = _NOTHING
            return out
        return out + self._feed_unfinished() if partial else out

    def _feed_unfinished(self) -> bytes:
        """Return what may pass of an event that is not whole."""
        partial = self._partial
        if not self._oversize and len(partial) > MAX_EVENT_BYTES:
            self._oversize = self._began = True  # nobody reads it, and it is too long to be nothing
            self._not_kept_bytes += self._sent_bytes
        if self._oversize:
            out = bytes(self._held + partial[self._sent_bytes :])
            self._held = _NOTHING
            self._not_kept_bytes += len(out)
            del partial[: 1 - EVENT_END_BYTES]
            self._sent_bytes = len(partial)
            return out
        if self._strip_usage or self._hold_usage:
            return b""
        pass_to = unsafe_from(partial, self._sent_bytes, self._terminal_lines)
        out = bytes(partial[self._sent_bytes : pass_to])
        self._sent_bytes = pass_to
        return out

    def _inspect(self, block: bytes, sent_bytes: int, start: int, positions: list[int]) -> bytes:
        """Look at the events of a block that have a marker, from the one on that begins at `start`, and at all of them
        where one may be held; what is to pass of it."""
        out = [block[sent_bytes:start]] if start > sent_bytes else []
        while start < len(block):
            event = first_event(block, start)
            data = event_data(event)
            unsent = event[max(0, sent_bytes - start) :]
            end = start + len(event)
            if self._is_terminal(event, data):
                self._done = self._terminated = True
                out += self._hold_terminal(unsent, data)
                self._keep_end(block[max(end, sent_bytes) :])
                break
            self._read_event(unsent, data, out)
            start = end
            if not self._hold_usage and start < len(block):  # those between two markers pass together
                marked = self._marked(block, start, positions)
                start = max(start, last_end(block, start, marked)) if marked < len(block) else len(block)
                if start > end:
                    self._read_on = True
                    out.append(block[max(end, sent_bytes) : start])
        return b"".join(out)

    def _is_terminal(self, event: bytes, data: bytes) -> bool:
        for marker in self._terminal_markers:
            if event.find(marker) >= 0:
                return self._reader.is_terminal(event, data)
        return False

    def _hold_terminal(self, unsent: bytes, data: bytes) -> list[bytes]:
        """Read the terminal event, which may have the usage, and hold it; what is to pass before it."""
        if self._usage_marker not in data and self._error_marker not in data:
            self._keep_end(unsent)
            return []
        seen: list[bytes] = []
        self._read_event(unsent, data, seen)
        if self._held:  # for the cost; what was held before it may pass
            return seen
        self._keep_end(b"".join(seen))
        return []

    def _read_event(self, unsent: bytes, data: bytes, out: list[bytes]) -> None:
        """Read one event: its usage, its output, and where its bytes go that were not sent yet."""
        has_usage = self._reader.usage_pattern.search(data) is not None
        if has_usage or self._error_marker in data:
            facts = self._reader.facts(data)
            has_usage = facts.has_usage
            self.error_seen = self.error_seen or facts.is_error
            if facts.reported is not None and (self.reported is None or not facts.reported.counts_nothing):
                self.reported, self._read_on = facts.reported, False
                self._note_reported(len(self._kept), self._unkept_bytes)
            if self._strip_usage and facts.is_usage_only:
                if blank := unsent[: len(unsent) - len(unsent.lstrip(b"\r\n"))]:
                    out.append(blank)
                return
        if not has_usage:
            self._read_on = True
        if self._held and (data or len(self._held) + len(unsent) > MAX_EVENT_BYTES):
            out.append(bytes(self._held))
            self._held = _NOTHING
        if self._held:
            self._held += unsent
        elif self._hold_usage and has_usage:
            self._held = bytearray(unsent)
        else:
            out.append(unsent)

    def _keep_end(self, tail: bytes) -> None:
        if self._end:
            self._end += tail[: MAX_EVENT_BYTES - len(self._end)]
        else:
            self._end = bytearray(tail[:MAX_EVENT_BYTES])

    def _pieces(self, block: bytes) -> Iterator[tuple[int, Piece]]:
        for event in split_events(block):
            if data := event_data(event):
                yield from self._reader.pieces(data)
