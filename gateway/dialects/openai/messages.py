"""OpenAI's format, the messages: which input is not text, and which is not in the body. This file owns that count.

Source: https://platform.openai.com/docs/api-reference/chat/create (`messages[].content[]`). Of messages whose members
are strings nothing else is looked at. What can't be recognised is taken to be outside the body: then the context window
is the bound, never too little.

Texts of a request are read for two ends. **By themselves**, for the bound of a hold: the content of a message stands
between special tokens, a prompt and the input of an embedding are taken whole, so that their tokens can be counted. All
else (tools, schemas, names, the JSON itself) comes into the prompt in ways that differ and stays at its bytes. To count
the JSON as it stands would be no bound: an escape cuts words at other places, and `" +#+#+#+#+#+` again and again has
five tokens where its JSON has two.

**All**, so that an answer that was cut costs at least its input: all JSON of a request but for settings (`_SETTINGS`,
and numbers and truths at the top) and the inline data of message parts, which `part_tokens` prices. What is nested
(tools, schemas, calls) is counted as compact JSON: providers write it into the prompt in ways of their own, which
differ little in length.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.schemas.decoding import UNREADABLE
from gateway.dialects.body import (
    ITEMS,
    NULL,
    PLAIN_BYTES,
    SHORT_VALUE_BYTES,
    SHORTEST_ITEM_BYTES,
    TEXT,
    StructureBounds,
    are_texts,
    check_value,
    first_byte,
    more_items,
    objects_of,
    read_object,
    read_objects,
    too_many,
)
from gateway.dialects.facts import NO_PARTS, Parts
from gateway.dialects.output import Inline, Kind, count_input, piece_of
from gateway.tokens import TOKENS_PER_MESSAGE, TOKENS_PER_NAME, TOKENS_PRIMING

MESSAGES: Final = "messages"
CONTENT: Final = "messages.content"
# Fields of a part that is text and in the body.
TEXT_PART: Final = frozenset({"type", "text", "refusal", "thinking", "reasoning", "signature", "cache_control"})
_KINDS: Final = frozenset({"image_url", "input_audio", "file"})
# Fields beside those, of parts of the kinds that are counted, that bring no input of their own.
_FURTHER: Final = frozenset({"detail", "filename", "min_pixels", "max_pixels"})
_PART: Final = TEXT_PART | _KINDS | _FURTHER
_MESSAGE: Final = frozenset({"role", "content", "name", "audio", "tool_calls", "function_call", "tool_call_id"})
# Members of a message that, as a list or an object, bring input that is not in the body or not text.
_NOT_TEXT: Final = frozenset({"audio", "content", "images", "files", "file_ids", "attachments"})
_SOURCE: Final = frozenset({"url", "file_data", "file_id", "filename", "detail", "format", "data"})
_AUDIO: Final = frozenset({"data", "format"})
_HEAD_BYTES: Final = 32
_DATA_URL: Final = b'"data:'
_IN_BODY: Final = _SOURCE - {"file_id", "data"}
# Levels around a member of a message: the body, the list, the message.
_MEMBER_LEVEL: Final = 3
_PART_LEVEL: Final = 5
_QUOTE, _LIST, _OBJECT = b'"[{'
_NESTED: Final = (_LIST, _OBJECT)


class _PlainMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message as nearly all are: two members, both of them texts."""

    role: str
    content: Raw


_PLAIN_MESSAGES: Final = msgspec.json.Decoder(list[_PlainMessage])
_AROUND_BYTES: Final = len('{"role":"","content":},')


def count_parts(messages: Raw, bounds: StructureBounds) -> tuple[Parts, bool]:
    """Return the parts that are not text in the `messages` of a request, and whether there is input outside the body.

    Raises `BadRequest` where one of them has parts or calls and not all are objects, where names are tricks, and where
    there are too many.
    """
    size_bytes = len(messages)
    if size_bytes <= PLAIN_BYTES and _are_plain(messages, bounds):
        return NO_PARTS, False
    if size_bytes > SHORTEST_ITEM_BYTES * bounds.messages and more_items(messages, bounds.messages):
        raise too_many(MESSAGES, bounds.messages, MESSAGES)
    if size_bytes <= PLAIN_BYTES and are_texts(messages, MESSAGES, _MESSAGE):
        return NO_PARTS, False
    return _look_into(messages, bounds)


def count_content(content: Raw, bounds: StructureBounds) -> tuple[Parts, bool]:
    """Count as `count_parts` does, of a list that has the parts of one message. Raises `BadRequest`."""
    parts: list[dict[str, Raw]] = []
    outside = not _collect(content, parts, bounds)
    return _sum(parts, outside, bounds) if parts else (NO_PARTS, outside)


def _are_plain(messages: Raw, bounds: StructureBounds) -> bool:
    """Return whether these are not too many messages, each of a role and a content, both texts, each once, and nothing
    else: told by their size, as clients write them, without spaces. Whatever else there were would make them longer,
    another spelling of a name too."""
    try:
        found = _PLAIN_MESSAGES.decode(messages)
    except (msgspec.ValidationError, RecursionError):
        return False
    size_bytes = 1 + _AROUND_BYTES * len(found)
    for message in found:
        content = message.content
        if memoryview(content)[0] != _QUOTE:
            return False
        size_bytes += len(message.role) + len(content)
    return size_bytes == len(messages) and len(found) <= bounds.messages


def _look_into(messages: Raw, bounds: StructureBounds) -> tuple[Parts, bool]:
    found = objects_of(messages, MESSAGES, _MESSAGE)
    parts: list[dict[str, Raw]] = []
    outside = False
    for message in found:
        for name, value in message.items():
            first = memoryview(value)[0]
            if first == _QUOTE or (first not in _NESTED and len(value) <= SHORT_VALUE_BYTES):
                continue
            if name == "content" and first == _LIST:
                outside |= not _collect(value, parts, bounds)
            else:
                check_value(value, bounds, _MEMBER_LEVEL, MESSAGES)
                outside |= first in _NESTED and name in _NOT_TEXT  # an earlier answer's audio, by id
    return _sum(parts, outside, bounds) if parts else (NO_PARTS, outside)


def _collect(content: Raw, parts: list[dict[str, Raw]], bounds: StructureBounds) -> bool:
    """Add the parts of one message; False where they are something else than objects or texts."""
    if more_items(content, bounds.parts - len(parts)):
        raise too_many("parts in its messages", bounds.parts, MESSAGES)
    found = read_objects(content, CONTENT, _PART)
    if found is None:
        check_value(content, bounds, _MEMBER_LEVEL, MESSAGES)
        return all(first_byte(item) == _QUOTE for item in ITEMS.decode(content))
    parts += found
    return True


def _sum(parts: list[dict[str, Raw]], outside: bool, bounds: StructureBounds) -> tuple[Parts, bool]:
    images = audios = files = inline_bytes = audio_bytes = 0
    for part in parts:
        names = part.keys()
        if not names <= _PART:
            outside = True
        images += "image_url" in names
        audios += "input_audio" in names
        files += "file" in names
        for name, value in part.items():
            if name == "input_audio":
                data_bytes, elsewhere = _audio(value, bounds)
                audio_bytes += data_bytes
                outside |= elsewhere
            elif name in _KINDS:
                data_bytes, elsewhere = _source(value, f"{CONTENT}.{name}", bounds)
                inline_bytes += data_bytes
                outside |= elsewhere
            elif first_byte(value) != _QUOTE:
                check_value(value, bounds, _PART_LEVEL, MESSAGES)
    return Parts(images, audios, files, inline_bytes, audio_bytes), outside


def _source(value: Raw, param: str, bounds: StructureBounds) -> tuple[int, bool]:
    """Return of an image or file: bytes of base64 data in the body, and whether it is named by an id alone."""
    if first_byte(value) != _OBJECT:
        check_value(value, bounds, _PART_LEVEL, MESSAGES)
        return _data_bytes(value), False
    fields = _fields(value, param, bounds)
    data_bytes = sum(_data_bytes(fields[name]) for name in ("url", "file_data") if name in fields)
    return data_bytes, not fields.keys() <= _IN_BODY


def _audio(value: Raw, bounds: StructureBounds) -> tuple[int, bool]:
    """Return of audio: bytes of base64 data in the body, and whether it is named by an id, or an address, which some
    providers take in place of data."""
    if first_byte(value) != _OBJECT:
        check_value(value, bounds, _PART_LEVEL, MESSAGES)
        data_bytes = _data_bytes(value)
        return data_bytes, not data_bytes
    fields = _fields(value, f"{CONTENT}.input_audio", bounds)
    data = fields.get("data")
    if data is None or not fields.keys() <= _AUDIO:
        return 0, True
    head = bytes(memoryview(data)[:_HEAD_BYTES])
    is_address = not head.startswith(_DATA_URL) and (b":" in head or b"\\u" in head)
    return (0, True) if is_address else (len(data), False)


def _fields(value: Raw, param: str, bounds: StructureBounds) -> dict[str, Raw]:
    fields = read_object(value, param, _SOURCE)
    for field in fields.values():
        if first_byte(field) != _QUOTE:
            check_value(field, bounds, _PART_LEVEL + 1, MESSAGES)
    return fields


def _data_bytes(value: Raw) -> int:
    return len(value) if bytes(memoryview(value)[: len(_DATA_URL)]) == _DATA_URL else 0


_SETTINGS: Final = frozenset(
    {
        "model",
        "user",
        "safety_identifier",
        "service_tier",
        "metadata",
        "stream_options",
        "logit_bias",
        "stop",
        "modalities",
        "audio",
        "reasoning_effort",
        "reasoning",
        "verbosity",
        "encoding_format",
        "store",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "tool_choice",
        "provider",
    }
)
# Fields of a message's part, and where their data is.
_DATA_FIELDS: Final[Mapping[str, tuple[Kind, str]]] = {
    "image_url": ("image", "url"),
    "input_audio": ("audio", "data"),
    "file": ("file", "file_data"),
}


class _Request(msgspec.Struct):
    messages: Raw = NULL
    prompt: Raw = NULL
    input: Raw = NULL


class _Message(msgspec.Struct):
    content: Raw = NULL


class _Part(msgspec.Struct):
    text: Raw = NULL


_REQUEST: Final = msgspec.json.Decoder(_Request)
_MESSAGES: Final = msgspec.json.Decoder(list[_Message])
_PARTS: Final = msgspec.json.Decoder(list[_Part])


def input_texts(body: bytes) -> list[tuple[str, int]]:
    """Return each text with the bytes that it takes of a body that `openai.parse` accepts; none where it can't be
    read."""
    try:
        return list(_texts(_REQUEST.decode(body)))
    except UNREADABLE:
        return []


def _texts(request: _Request) -> Iterator[tuple[str, int]]:
    if request.messages != NULL:
        for message in _MESSAGES.decode(request.messages):
            yield from content_texts(message.content)
    for whole in (request.prompt, request.input):
        if bytes(whole)[:1] == b"[":
            for item in ITEMS.decode(whole):
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
        yield TEXT.decode(raw), len(raw)


def input_tokens(body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
    """Return the tokens of all texts and structures, by `count`, and the inline data."""
    return count_input(body, count, _of_field)


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
