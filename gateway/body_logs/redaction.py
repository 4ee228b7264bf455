"""What must not be written is taken out of a body: by rules on its texts, and by its fields' names. Pure.

A body is JSON, or a stream of events whose data is JSON. A stream cuts words into pieces: pieces of one text are put
together, rules are applied to the whole, and what is left is put back into the pieces. A text that is JSON by itself,
such as the arguments of a tool's call, is looked into. Names of fields and numbers are texts as well. What can't be
read is not kept: no rule on a field would find anything in it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from billing.errors import MetergateError
from gateway.body_logs.rules import MOST_MATCHES, any_of, replaced, rules_of
from gateway.dialects.streaming import event_data, split_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.body_logs.rules import Span
    from gateway.config.body_logs import Redact

# Values of a body that are looked at, a tenth of a second's work; one with more is not kept.
MOST_VALUES: Final = 100_000
MOST_DEPTH: Final = 100
# Texts in texts that are looked into.
MOST_NESTED: Final = 4
# The shortest text without a blank that is taken for bytes.
LEAST_PACKED: Final = 1_024
# Of each text that a stream may have cut off, what is taken out at its end: a rule may have known the whole.
TAIL_CHARACTERS: Final = 64
# Names of fields that are remembered, and the longest of them.
MOST_NAMES: Final = 4_096
NAME_CHARACTERS: Final = 64
# Digits that may be a card's number.
LEAST_DIGITS: Final = 13
FIELD: Final = "field"
TOO_MANY: Final = "[redacted]"
# Of events, what tells texts apart whose fields are called alike.
INDEXES: Final = ("index", "output_index", "content_index", "summary_index", "item_id", "type")
DONE: Final = b"[DONE]"
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DATA_URL: Final = re.compile(r"data:[a-z]{1,20}/[a-z0-9.+-]{1,40};base64,", re.ASCII)
_PACKED_TEXT: Final = re.compile(r"[A-Za-z0-9+/_=\r\n-]+", re.ASCII)
_EVENT: Final = re.compile(rb"^event: ?([a-z_.]{1,80})\r?$", re.MULTILINE)

Holder = dict[str, Any] | list[Any]
Key = tuple[object, ...]


class NotKept(MetergateError):
    """A body is not written; the message says why, in one word."""


class Kept(msgspec.Struct):
    """What is written of a body: JSON, or the text of a stream; None where `left_out` says why it is not. `cut` counts
    texts that were shortened, `redacted` what was taken out, by rule."""

    body: object = None
    left_out: str | None = None
    cut: int = 0
    redacted: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class _Text:
    """A text, and where it stands; `event` numbers that of a stream."""

    holder: Holder
    at: Any
    event: int

    @property
    def text(self) -> str:
        return cast("str", self.holder[self.at])

    def put(self, text: str) -> None:
        """Have another text stand there."""
        self.holder[self.at] = text


@dataclass(slots=True)
class _Found:
    """What one body has: its texts, those together that are pieces of one; and what became of it. `names` are those
    of fields, as they are written; `changed` says that it is not as it was. Of a stream (`streamed`), items of lists
    are told apart by their `index`."""

    streamed: bool = False
    texts: dict[Key, list[_Text]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    changed: bool = False
    redacted: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    values: int = 0


class Redactor:
    """Applies one configuration's rules, and those that always apply. `secrets` are texts that are taken out wherever
    they stand; at most `max_field_bytes` characters of a text are kept."""

    def __init__(self, config: Redact, max_field_bytes: int, secrets: Iterable[str] = ()) -> None:
        self._rules = rules_of(config, secrets)
        self._any = any_of(self._rules)
        self._names = set[str]()
        """Names of fields that are as they may be, of up to MOST_NAMES."""
        self._fields = config.fields
        self._max_field_bytes = max_field_bytes

    def whole(self, body: bytes) -> Kept:
        """Return what is kept of a JSON body."""
        return _kept(lambda: self._whole(body))

    def stream(self, body: bytes, *, ended: bool) -> Kept:
        """Return what is kept of a stream: events, or a list in JSON. One that has not `ended` was cut."""
        if body.lstrip()[:1] == b"[":
            return _kept(lambda: self._list(body))
        return _kept(lambda: self._events(body, ended=ended))

    def text(self, text: str) -> str:
        """Return a text with what must not be written taken out."""
        return self._clean(text, _Found())

    def _whole(self, body: bytes) -> Kept:
        found, holder = _Found(), [msgspec.json.decode(body) if body else None]
        self._walk(holder, found, 0)
        self._redact(found)
        return Kept(holder[0], cut=found.cut, redacted=dict(found.redacted))

    def _list(self, body: bytes) -> Kept:
        found, holders = _Found(streamed=True), [[event] for event in msgspec.json.decode(body)]
        for number, holder in enumerate(holders):
            self._walk(holder, found, number)
        self._redact(found)
        return Kept([holder[0] for holder in holders], cut=found.cut, redacted=dict(found.redacted))

    def _events(self, body: bytes, *, ended: bool) -> Kept:
        found, events = _Found(streamed=True), list(split_events(body))
        if not ended and events and not events[-1].endswith(b"\n"):
            events.pop()
        written: list[tuple[bytes, list[Any] | None]] = []
        for number, event in enumerate(events):
            data = event_data(event).strip()
            holder = None if not data or data == DONE else [msgspec.json.decode(data)]
            if holder is not None:
                self._walk(holder, found, number)
            written.append((event, holder))
        if not ended:
            _cut_tails(found)
        self._redact(found)
        text = "".join(_event(event, holder) for event, holder in written)
        return Kept(text, cut=found.cut, redacted=dict(found.redacted))

    def _walk(self, holder: Holder, found: _Found, event: int, key: Key = (), path: tuple[str, ...] = ()) -> None:
        """Note all texts below a holder; a field that is not to be kept is taken out at once. Raises `NotKept`."""
        found.values += len(holder)
        if found.values > MOST_VALUES or len(key) > MOST_DEPTH:
            raise NotKept("too_many_values")
        if isinstance(holder, dict):
            told = [(name, holder[name]) for name in INDEXES if name in holder]
            key = (*key, *(pair for pair in told if isinstance(pair[1], str | int)))
        at: Any
        alike = Counter[str]()
        for at, value in list(holder.items()) if isinstance(holder, dict) else enumerate(holder):
            below = path
            if isinstance(holder, dict):
                below, at = (*path, at), self._named(holder, at, found, alike)
            elif key:  # else it is what holds the body
                below = (*path, str(at))
            if self._fields and any(_leads(rule, below) for rule in self._fields):
                holder[at] = f"[{FIELD}]"
                found.redacted[FIELD] += 1
                found.changed = True
            elif isinstance(value, dict | list):
                placed = found.streamed and isinstance(holder, list) and isinstance(value, dict) and "index" in value
                self._walk(value, found, event, key if placed else (*key, at), below)
            elif isinstance(value, str):
                found.texts.setdefault((*key, at), []).append(_Text(holder, at, event))
            elif isinstance(value, int | float) and len(text := str(value)) >= LEAST_DIGITS:
                clean = self._clean(text, found)
                if clean != text:
                    holder[at] = clean
                    found.changed = True

    def _named(self, holder: dict[str, Any], name: str, found: _Found, alike: Counter[str]) -> str:
        """Return the name by which a field stands from now on, with what must not be written taken out. `alike` counts
        the holder's names that became the same: the second and further ones are numbered."""
        if name in self._names:
            return name
        clean = found.names.get(name)
        if clean is None:
            clean = found.names[name] = self._clean(name, found)
        if clean == name:
            if len(self._names) < MOST_NAMES and len(name) <= NAME_CHARACTERS:
                self._names.add(name)
            return name
        alone = clean
        alike[alone] += 1
        while clean in holder:
            alike[alone] += 1
            clean = f"{alone}_{alike[alone]}"
        holder[clean] = holder.pop(name)
        found.changed = True
        return clean

    def _redact(self, found: _Found, nested: int = 0) -> None:
        for texts in found.texts.values():
            pieces = [each.text for each in texts]
            kept = _packed(pieces, found) or self._opened(pieces, found, nested)
            if kept is None:
                kept = replaced(pieces, self._spans("".join(pieces), found))
            for each, piece, before in zip(texts, self._bounded(kept, found), pieces, strict=True):
                if piece != before:
                    each.put(piece)
                    found.changed = True

    def _opened(self, pieces: list[str], found: _Found, nested: int) -> list[str] | None:
        """Return JSON in a text with what must not be written taken out, in its first piece; None where it is no JSON,
        or nothing is taken out. A text that begins as JSON but can't be read may have any field: where there are rules
        on fields, none of it stays."""
        text = "".join(pieces)
        if text.lstrip()[:1] not in ("{", "["):
            return None
        try:
            if nested >= MOST_NESTED:
                raise RecursionError
            holder = [msgspec.json.decode(text)]
        except UNREADABLE:
            if not self._fields or text == f"[{FIELD}]":
                return None
            found.redacted[FIELD] += 1
            return [f"[{FIELD}]", *("" for _ in pieces[1:])]
        inner = _Found(values=found.values)
        self._walk(holder, inner, 0)
        self._redact(inner, nested + 1)
        found.values = inner.values
        if not inner.changed and not ((self._fields or "\\" in text) and _has_name_twice(text)):
            return None
        found.redacted += inner.redacted
        found.cut += inner.cut
        return [msgspec.json.encode(holder[0]).decode(), *("" for _ in pieces[1:])]

    def _bounded(self, pieces: list[str], found: _Found) -> list[str]:
        """Return a text's pieces with no more of them together than is kept of a text."""
        left, beyond = self._max_field_bytes, sum(map(len, pieces)) - self._max_field_bytes
        if beyond <= 0:
            return pieces
        found.cut += 1
        kept = []
        for piece in pieces:
            more = f"[{beyond} characters more]" if 0 <= left < len(piece) else ""
            kept.append(piece[: max(0, left)] + more)
            left -= len(piece) + (1 if more else 0)
        return kept

    def _clean(self, text: str, found: _Found) -> str:
        return replaced([text], self._spans(text, found))[0]

    def _spans(self, text: str, found: _Found) -> list[Span]:
        """Return what is taken out of a text, in order, nothing twice."""
        if self._any is not None and self._any.search(text) is None:
            return []
        spans: list[Span] = []
        for rule in self._rules:
            spans += rule.spans(text)
            if len(spans) > MOST_MATCHES:
                found.redacted[rule.name] += 1
                return [(0, len(text), TOO_MANY)]
        merged: list[Span] = []
        for start, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end), merged[-1][2])
            else:
                merged.append((start, end, f"[{name}]"))
                found.redacted[name] += 1
        return merged


def _kept(make: Callable[[], Kept]) -> Kept:
    try:
        return make()
    except NotKept as error:
        return Kept(left_out=str(error))
    except UNREADABLE:
        return Kept(left_out="not_json")


def _event(event: bytes, holder: list[Any] | None) -> str:
    """Return an event with its name and what of its data was read: of a name that is there twice, the last; no
    comment."""
    if holder is None:
        return f"data: {DONE.decode()}\n\n" if event_data(event) else ""
    shown = msgspec.json.encode(holder[0]).decode()
    name = _EVENT.search(event)
    return f"data: {shown}\n\n" if name is None else f"event: {name[1].decode()}\ndata: {shown}\n\n"


def _packed(pieces: list[str], found: _Found) -> list[str] | None:
    """Return bytes that are written as a text (images, files) as their size; None for other texts."""
    if len(pieces) > 1:
        return None
    (text,) = pieces
    url = _DATA_URL.match(text)
    if url is None and (len(text) < LEAST_PACKED or not _PACKED_TEXT.fullmatch(text)):
        return None
    start = "" if url is None else url[0]
    found.cut += 1
    return [f"{start}[{len(text) - len(start)} characters]"]


def _has_name_twice(text: str) -> bool:
    """Return whether an object in this JSON has a name twice, of which only the last was read; or may have."""
    twice = False

    def made(pairs: list[tuple[str, Any]]) -> None:
        nonlocal twice
        twice = twice or len({name for name, _ in pairs}) < len(pairs)

    try:
        json.loads(text, object_pairs_hook=made)
    except (ValueError, RecursionError):
        return True
    return twice


def _cut_tails(found: _Found) -> None:
    """Take out the ends of texts that may have gone on: such as have several pieces, and those of the last event that
    has more than its type, such as a ping, and what each event says."""
    open_texts = [texts for (*_, at), texts in found.texts.items() if at not in INDEXES and not _is_constant(texts)]
    last = max((texts[-1].event for texts in open_texts), default=0)
    for texts in open_texts:
        if len(texts) == 1 and texts[0].event != last:
            continue
        left = TAIL_CHARACTERS
        for each in reversed(texts):
            size = len(each.text)
            each.put(each.text[: max(0, size - left)])
            found.changed = True
            left -= size
            if left <= 0:
                break


def _is_constant(texts: list[_Text]) -> bool:
    """Return whether a text is the same in each of several events: no piece of a longer one."""
    return len(texts) > len({each.text for each in texts}) == 1


def _leads(rule: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Return whether a rule names this field: by its name alone, wherever it is, or by its path from the top."""
    if len(rule) == 1:
        return path[-1:] == rule
    return len(rule) == len(path) and all(want in ("*", have) for want, have in zip(rule, path, strict=True))
