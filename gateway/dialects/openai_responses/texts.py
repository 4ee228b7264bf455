"""The Responses API, the request: what of it a model reads. This file owns which texts stand alone and are counted.

As for chats (`gateway.dialects.openai.texts`, `.input`): the text of a message stands between special tokens, so that
it can be counted by itself; all else stays at its bytes in a hold, and is counted as text where an answer was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.output import Inline, Kind, kind_named, piece_of
from gateway.tokens import TOKENS_PER_MESSAGE

_NULL: Final = Raw(b"null")
_SETTINGS: Final = frozenset(
    {
        *("model", "user", "safety_identifier", "service_tier", "metadata", "include", "truncation", "stream_options"),
        *("reasoning", "tool_choice", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
        *("previous_response_id", "conversation", "context_management", "moderation"),
    }
)
_NO_TEXT: Final = frozenset({"type", "id", "status", "detail", "file_id", "call_id"})


class _Request(msgspec.Struct):
    instructions: Raw = _NULL
    input: Raw = _NULL


class _Item(msgspec.Struct):
    content: Raw = _NULL


class _Part(msgspec.Struct):
    text: Raw = _NULL


_REQUEST: Final = msgspec.json.Decoder(_Request)
_ITEMS: Final = msgspec.json.Decoder(list[_Item])
_PARTS: Final = msgspec.json.Decoder(list[_Part])
_TEXT: Final = msgspec.json.Decoder(str)


def input_texts(body: bytes) -> list[tuple[str, int]]:
    """Return each text with the bytes that it takes of the body; none where it can't be read."""
    try:
        return list(_texts(_REQUEST.decode(body)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _texts(request: _Request) -> Iterator[tuple[str, int]]:
    yield from _text(request.instructions)
    if bytes(request.input)[:1] != b"[":
        yield from _text(request.input)
        return
    for item in _ITEMS.decode(request.input):
        if bytes(item.content)[:1] == b"[":
            for part in _PARTS.decode(item.content):
                yield from _text(part.text)
        else:
            yield from _text(item.content)


def _text(raw: Raw) -> Iterator[tuple[str, int]]:
    if bytes(raw)[:1] == b'"':
        yield _TEXT.decode(raw), len(raw)


def input_tokens(body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
    """Return the tokens of all texts and structures, by `count`, and the inline data beside them. A body that can't be
    read is counted as it stands."""
    inline: list[Inline] = []
    tokens = 0
    try:
        for name, value in msgspec.json.decode(body).items():
            if name in _SETTINGS or isinstance(value, bool | int | float):
                continue
            if name == "input" and isinstance(value, list):
                tokens += TOKENS_PER_MESSAGE * len(value)
                for item in value:
                    tokens += sum(map(count, _of_item(item, None, inline)))
            elif isinstance(value, str):
                tokens += count(value)
            elif value is not None:
                tokens += count(msgspec.json.encode(value).decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        return count(body.decode("utf-8", "replace")), []
    return tokens, inline


def _of_item(value: Any, kind: Kind | None, inline: list[Inline]) -> Iterator[str]:
    """The texts within one item."""
    if isinstance(value, str):
        piece = piece_of(value, kind)
        if isinstance(piece, Inline):
            inline.append(piece)
        else:
            yield piece
    elif isinstance(value, dict):
        for name, under in value.items():
            if name not in _NO_TEXT:
                yield from _of_item(under, kind_named(name, kind), inline)
    elif isinstance(value, list):
        for each in value:
            yield from _of_item(each, kind, inline)
    elif value is not None:
        yield msgspec.json.encode(value).decode()
