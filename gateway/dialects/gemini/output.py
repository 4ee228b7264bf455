"""Gemini's format, the answer: what was written in it, whole or in pieces of a stream."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.dialects.exceptions import UNREADABLE
from gateway.dialects.output import Inline, Output, Piece, cut_output, cut_pieces, joined, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NO_OUTPUT: Final = frozenset(
    {"thought", "thoughtSignature", "videoMetadata", "partMetadata", "mediaResolution", "id", "role"}
)
"""Fields of a part that identify the piece, and have no output."""
_TEXTS: Final = re.compile(rb'"(?:text|code|output|args)"\s*:\s*"((?:[^"\\]|\\.)*)')


def pieces(data: bytes) -> list[tuple[int, Piece]]:
    """Return the (candidate, piece) pairs of an answer or a piece of a stream, none of them empty; of one that is no
    JSON what can be told."""
    try:
        return list(_of_answer(msgspec.json.decode(data)))
    except UNREADABLE:
        return pieces_of_part(data) if data.lstrip().startswith(b"{") else []


def output_of(body: bytes) -> Output:
    """Return what was written in a whole answer; not `known` where it has neither candidates nor a reason for that."""
    try:
        answer = msgspec.json.decode(body)
        found = joined(_of_answer(answer))
    except UNREADABLE:
        return Output(known=False)
    fields = answer if isinstance(answer, dict) else {}
    known = isinstance(fields.get("candidates"), list) or bool(fields.get("promptFeedback"))
    return Output(found.text, found.inline, known, bool(fields.get("error")))


def output_of_part(part: bytes) -> Output:
    """Return what can be told of an answer that is not here to its end; not `known` where something is here that says
    nothing."""
    return cut_output(_TEXTS, part)


def pieces_of_part(data: bytes) -> list[tuple[int, Piece]]:
    """Return what can be told of an event that broke off: its text; data where it is long and has none."""
    return cut_pieces(_TEXTS, data, "image")


def _of_answer(answer: Any) -> Iterator[tuple[int, Piece]]:
    candidates = answer.get("candidates") if isinstance(answer, dict) else None
    for candidate in candidates if isinstance(candidates, list) else ():
        content = candidate.get("content") if isinstance(candidate, dict) else None
        parts = content.get("parts") if isinstance(content, dict) else None
        index = candidate.get("index") if isinstance(candidate, dict) else None
        for part in parts if isinstance(parts, list) else ():
            for piece in _of_part(part) if isinstance(part, dict) else ():
                if isinstance(piece, Inline) or piece:
                    yield (index if isinstance(index, int) else 0), piece


def _of_part(part: Mapping[str, Any]) -> Iterator[Piece]:
    for name, value in part.items():
        if value is None or name in _NO_OUTPUT:
            continue
        if isinstance(value, str):
            yield value
        elif name == "inlineData" and isinstance(value, dict) and isinstance(value.get("data"), str):
            yield Inline(kind_of(str(value.get("mimeType"))) or "file", len(value["data"]))
        else:
            yield msgspec.json.encode(value).decode()
