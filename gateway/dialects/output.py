"""What a model reads and writes, in pieces: text, and inline data (pictures, sound, files in base64). Pure; of all
dialects.

This file owns what is data and what is text: data stands under a field that is named for it. A megabyte of base64 there
is not counted as words, and what a model writes as text stays text, whatever it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from billing.schemas.decoding import UNREADABLE

Kind = Literal["image", "audio", "file"]

# A text of a picture or a sound is data from here on, if it is base64; a shorter one costs little as text.
LONG_CHARACTERS: Final = 256
# 16 kbit/s, the least that speech is packed into: so many bytes are at most one second.
LEAST_AUDIO_BYTES_PER_S: Final = 2_000
DATA_URL: Final = "data:"
_MEDIA_CHARACTERS: Final = 5
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,2}\s*")
# Of a long text that are looked at: base64 does not become prose later.
_SAMPLE_CHARACTERS: Final = 4_096
# Of a part of an answer that are looked through.
MAX_SEARCHED_BYTES: Final = 4 << 20
_KIND_OF_MEDIA: Final[Mapping[str, Kind]] = {"image": "image", "audio": "audio", "video": "file"}


class Inline(msgspec.Struct, frozen=True, gc=False):
    """One piece of data in base64; `size_bytes` as it is written."""

    kind: Kind
    size_bytes: int

    def tokens(self, part_tokens: Mapping[str, int] | None) -> int:
        """Return at most so many tokens: by a price row's `part_tokens`; where that does not say, its bytes, because no
        codec packs a token into fewer."""
        bounds = part_tokens or {}
        if self.kind != "audio":
            return bounds.get(self.kind, self.size_bytes)
        second = bounds.get("audio_second")
        if second is None:
            return self.size_bytes
        return second * -(-self.size_bytes * 3 // 4 // LEAST_AUDIO_BYTES_PER_S)


Piece = str | Inline
Pieces = Callable[[dict[str, Any]], Iterable[tuple[int, Piece]]]


class Output(msgspec.Struct, frozen=True, gc=False):
    """The output of an answer: the text of all choices, and inline data. `known` is False if part of the body could not
    be read, so that there may be more. `failed` says that the provider has reported an error instead of output.
    `tool_calls` are those of tools at the provider that it tells of."""

    text: str = ""
    inline: tuple[Inline, ...] = ()
    known: bool = True
    failed: bool = False
    tool_calls: int = 0

    @property
    def empty(self) -> bool:
        """Return whether nothing was written."""
        return not self.text and not self.inline


NO_OUTPUT: Final = Output()


def piece_of(text: str, kind: Kind | None) -> Piece:
    """Return a string of a JSON value as text or data; `kind` is what the fields around it are named for."""
    if kind is None:
        return text
    if text.startswith(DATA_URL):
        media = text[len(DATA_URL) : len(DATA_URL) + _MEDIA_CHARACTERS]
        return Inline(_KIND_OF_MEDIA.get(media, kind), len(text))
    if len(text) >= LONG_CHARACTERS and _BASE64.fullmatch(text[:_SAMPLE_CHARACTERS]):
        return Inline(kind, len(text))
    return text


def kind_named(name: str, around: Kind | None) -> Kind | None:
    """Return what data under a field of this name is; that of the fields around it where the name does not say."""
    lower = name.lower()
    if "image" in lower:
        return "image"
    if "audio" in lower:
        return "audio"
    if "file" in lower or "video" in lower:
        return "file"
    return around


def joined(pieces: Iterable[tuple[int, Piece]]) -> Output:
    """Return the pieces of (choice, piece) pairs together, the text choice after choice."""
    by_choice: dict[int, list[str]] = {}
    inline: list[Inline] = []
    for choice, piece in pieces:
        if isinstance(piece, Inline):
            inline.append(piece)
        else:
            by_choice.setdefault(choice, []).append(piece)
    text = "".join("".join(by_choice[choice]) for choice in sorted(by_choice))
    return Output(text, tuple(inline))


def kind_of(mime_type: str) -> Kind | None:
    """Return what data of a MIME type is counted as; None for video, and for what is not known."""
    major, _, minor = mime_type.strip().lower().partition("/")
    if major in ("image", "audio"):
        return "image" if major == "image" else "audio"
    return "file" if major == "text" or (major == "application" and minor) else None


class OutputReader(msgspec.Struct, frozen=True):
    """Reads what was written in answers of one API.

    `of_answer` yields the (choice, piece) pairs of a whole answer, and `of_event` those of a stream's event; empty
    pieces are left out. `is_known` says whether an answer has a list of output, or a reason for having none. `texts`
    finds the strings that are output in a part of an answer, each in a group; an event that broke off and has none is
    data of the kind `cut_kind`.
    """

    of_answer: Pieces
    of_event: Pieces
    is_known: Callable[[dict[str, Any]], bool]
    texts: re.Pattern[bytes]
    cut_kind: Kind = "image"

    def pieces(self, data: bytes) -> list[tuple[int, Piece]]:
        """Return the pieces of one event, in order. Of one that is no JSON (`NaN` among its numbers, say) what can be
        told: clients may read it all the same."""
        try:
            event = msgspec.json.decode(data)
            return [pair for pair in self.of_event(event) if pair[1]] if isinstance(event, dict) else []
        except UNREADABLE:
            return self.pieces_of_part(data) if data.lstrip().startswith(b"{") else []

    def output(self, body: bytes) -> Output:
        """Return what was written in a whole answer."""
        try:
            answer = msgspec.json.decode(body)
            if not isinstance(answer, dict):
                return Output(known=False)
            found = joined(pair for pair in self.of_answer(answer) if pair[1])
        except UNREADABLE:
            return Output(known=False)
        return Output(found.text, found.inline, self.is_known(answer), bool(answer.get("error")))

    def output_of_part(self, part: bytes) -> Output:
        """Return what can be told of an answer that is not here to its end; not `known` where something is here that
        says nothing."""
        found = self.texts.finditer(part, 0, MAX_SEARCHED_BYTES)
        text = b"".join(each[each.lastindex or 0] for each in found).decode("utf-8", "replace")
        return Output(text, known=bool(text) or not part.strip())

    def pieces_of_part(self, data: bytes) -> list[tuple[int, Piece]]:
        """Return what can be told of an event that broke off: its text; data where it is long and has none."""
        if text := self.output_of_part(data).text:
            return [(0, text)]
        return [(0, Inline(self.cut_kind, len(data)))] if len(data) >= LONG_CHARACTERS else []


def count_input(
    body: bytes, count: Callable[[str], int], walk: Callable[[str, Any, list[Inline]], Iterable[str | int]]
) -> tuple[int, list[Inline]]:
    """Return the tokens of a request, by `count`, and its inline data. `walk` yields the texts and the counted tokens
    of one field, and adds its data to the list. A body that can't be read is counted as plain text."""
    inline: list[Inline] = []
    try:
        found = [each for name, value in msgspec.json.decode(body).items() for each in walk(name, value, inline)]
    except (*UNREADABLE, AttributeError):
        return count(body.decode("utf-8", "replace")), []
    return sum(each if isinstance(each, int) else count(each) for each in found), inline
