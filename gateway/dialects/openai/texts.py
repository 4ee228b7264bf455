"""OpenAI's format, the texts of a request: those that a provider turns into tokens by themselves. This file owns which.

The content of a message stands between special tokens, a prompt and the input of an embedding are taken whole, so that
their tokens can be counted. All else (tools, schemas, names, the JSON itself) comes into the prompt in ways that differ
and stays at its bytes. To count the JSON as it stands would be no bound: an escape cuts words at other places, and
`" +#+#+#+#+#+` again and again has five tokens where its JSON has two.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Raw

_NULL: Final = Raw(b"null")


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
    """Each text with the bytes that it takes of a body that `openai.parse` accepts; none where it can't be read."""
    try:
        request = _REQUEST.decode(body)
        return list(_texts(request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _texts(request: _Request) -> Iterator[tuple[str, int]]:
    if request.messages != _NULL:
        for message in _MESSAGES.decode(request.messages):
            if bytes(message.content)[:1] == b"[":
                for part in _PARTS.decode(message.content):
                    yield from _text(part.text)
            else:
                yield from _text(message.content)
    for whole in (request.prompt, request.input):
        if bytes(whole)[:1] == b"[":
            for item in _ITEMS.decode(whole):
                yield from _text(item)
        else:
            yield from _text(whole)


def _text(raw: Raw) -> Iterator[tuple[str, int]]:
    if bytes(raw)[:1] == b'"':
        yield _TEXT.decode(raw), len(raw)
