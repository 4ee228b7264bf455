"""OpenAI's format, the texts of a request: those that become tokens by themselves, and all that a model reads.

**By themselves**, for the bound of a hold: the content of a message stands between special tokens, a prompt and the
input of an embedding are taken whole, so that their tokens can be counted. All else (tools, schemas, names, the JSON
itself) comes into the prompt in ways that differ and stays at its bytes. To count the JSON as it stands would be no
bound: an escape cuts words at other places, and `" +#+#+#+#+#+` again and again has five tokens where its JSON has two.

**All**, so that an answer that was cut costs at least its input: all JSON of a request but for settings (`_SETTINGS`,
and numbers and truths at the top) and the inline data of message parts, which `part_tokens` prices. What is nested
(tools, schemas, calls) is counted as compact JSON: providers write it into the prompt in ways of their own, which
differ little in length.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.output import Inline, Kind, piece_of
from gateway.tokens import TOKENS_PER_MESSAGE, TOKENS_PER_NAME, TOKENS_PRIMING

_NULL: Final = Raw(b"null")
_SETTINGS: Final = frozenset(
    {
        *("model", "user", "safety_identifier", "service_tier", "metadata", "stream_options", "logit_bias", "stop"),
        *("modalities", "audio", "reasoning_effort", "reasoning", "verbosity", "encoding_format", "store"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "tool_choice", "provider"),
    }
)
_DATA_FIELDS: Final[Mapping[str, tuple[Kind, str]]] = {
    "image_url": ("image", "url"),
    "input_audio": ("audio", "data"),
    "file": ("file", "file_data"),
}
"""Fields of a message's part, and where their data is."""


class _Request(msgspec.Struct):
    messages: Raw = _NULL
    prompt: Raw = _NULL
    input: Raw = _NULL


class _Message(msgspec.Struct):
    content: Raw = _NULL


class _Part(msgspec.Struct):
    text: Raw = _NULL


_REQUEST: Final = msgspec.json.Decoder(_Request)
_MESSAGES: Final = msgspec.json.Decoder(list[_Message])
_PARTS: Final = msgspec.json.Decoder(list[_Part])
_ITEMS: Final = msgspec.json.Decoder(list[Raw])
_TEXT: Final = msgspec.json.Decoder(str)


def input_texts(body: bytes) -> list[tuple[str, int]]:
    """Return each text with the bytes that it takes of a body that `openai.parse` accepts; none where it can't be
    read."""
    try:
        request = _REQUEST.decode(body)
        return list(_texts(request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _texts(request: _Request) -> Iterator[tuple[str, int]]:
    if request.messages != _NULL:
        for message in _MESSAGES.decode(request.messages):
            yield from content_texts(message.content)
    for whole in (request.prompt, request.input):
        if bytes(whole)[:1] == b"[":
            for item in _ITEMS.decode(whole):
                yield from text_of(item)
        else:
            yield from text_of(whole)


def content_texts(content: Raw) -> Iterator[tuple[str, int]]:
    """Yield the texts of a message's content, a text or an array of parts, each with the bytes that it takes."""
    if bytes(content)[:1] == b"[":
        for part in _PARTS.decode(content):
            yield from text_of(part.text)
    else:
        yield from text_of(content)


def text_of(raw: Raw) -> Iterator[tuple[str, int]]:
    """Yield a text with the bytes that it takes; nothing for another value."""
    if bytes(raw)[:1] == b'"':
        yield _TEXT.decode(raw), len(raw)


def input_tokens(body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
    """Return the tokens of all texts and structures, by `count`, and the inline data. A body that can't be read is
    counted as plain text."""
    inline: list[Inline] = []
    try:
        fields = msgspec.json.decode(body)
        texts = [text for name, value in fields.items() for text in _of_field(name, value, inline)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        return count(body.decode("utf-8", "replace")), []
    return sum(each if isinstance(each, int) else count(each) for each in texts), inline


def _of_field(name: str, value: Any, inline: list[Inline]) -> Iterator[str | int]:
    """Yield what one field of the body brings: texts, and tokens that are numbered already."""
    if name == "messages" and isinstance(value, list):
        yield TOKENS_PRIMING
        for message in value:
            yield from _of_message(message, inline)
    elif name in ("prompt", "input"):
        yield from _of_prompt(value)
    elif name not in _SETTINGS and not isinstance(value, bool | int | float):
        yield from _of_value(value)


def _of_message(message: Any, inline: list[Inline]) -> Iterator[str | int]:
    if not isinstance(message, dict):
        yield from _of_value(message)
        return
    yield TOKENS_PER_MESSAGE + (TOKENS_PER_NAME if "name" in message else 0)
    for name, value in message.items():
        if name == "content" and isinstance(value, list):
            for part in value:
                yield from _of_part(part, inline)
        else:
            yield from _of_value(value)


def _of_part(part: Any, inline: list[Inline]) -> Iterator[str | int]:
    if not isinstance(part, dict):
        yield from _of_value(part)
        return
    for name, value in part.items():
        if name in _DATA_FIELDS:
            kind, data = _DATA_FIELDS[name]
            for each, item in value.items() if isinstance(value, dict) else ((data, value),):
                piece = piece_of(item, kind) if each == data and isinstance(item, str) else item
                if isinstance(piece, Inline):
                    inline.append(piece)
                else:
                    yield from _of_value(piece)
        elif name != "type":
            yield from _of_value(value)


def _of_prompt(value: Any) -> Iterator[str | int]:
    """Yield a text, texts, token ids, or lists of them: an id is a token."""
    for item in value if isinstance(value, list) else (value,):
        if isinstance(item, int):
            yield 1
        elif isinstance(item, list) and all(isinstance(each, int) for each in item):
            yield len(item)
        else:
            yield from _of_value(item)


def _of_value(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif value is not None:
        yield msgspec.json.encode(value).decode()
