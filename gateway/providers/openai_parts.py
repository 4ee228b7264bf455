"""OpenAI's format, the messages: which input is not text, and which is not in the body. This file owns that count.

Source: https://platform.openai.com/docs/api-reference/chat/create (`messages[].content[]`). Only names and the first
bytes of values are looked at, so that a long prompt costs one scan. What can't be recognised is taken to be outside the
body: then the context window is the bound, never too little.
"""

import re
from typing import Final

import msgspec
from msgspec import Raw

from gateway.providers.dialect import NO_PARTS, BadRequest, Parts


class Name(str):
    """A field's name that equals no other `Name`, so that a dictionary keeps what stands twice in a JSON object."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


def as_name(_type: type, name: str) -> Name:
    """`dec_hook` of a decoder of dictionaries with `Name` keys."""
    return Name(name)


TEXT_PART: Final = frozenset({"type", "text", "refusal", "thinking", "reasoning", "signature", "cache_control"})
"""Fields of a part that is text and in the body."""
_KINDS: Final = frozenset({"image_url", "input_audio", "file"})
_FURTHER: Final = frozenset({"detail", "filename", "min_pixels", "max_pixels"})
"""Fields beside those, of parts of the kinds that are counted, that bring no input of their own."""

NESTED: Final = re.compile(rb":\s*[\[{]")
"""Without a match no message has a member that is a list or an object, so all content is a string."""
SHORT_BYTES: Final = 1_024
"""Up to here the expression is the faster one."""
MOST_BRACKETS: Final = 256
"""Of one kind that are looked at one by one; text with more is searched by the expression."""
MOST_SPACES: Final = 16
"""Before a bracket; where there are more, the expression is asked, too."""
_OBJECTS: Final = msgspec.json.Decoder(list[dict[Name, Raw]], dec_hook=as_name)
_ITEMS: Final = msgspec.json.Decoder(list[Raw])
_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])


def first_byte(raw: Raw) -> int:
    """The first byte of a JSON value, which tells its type."""
    return memoryview(raw)[0]


def count_parts(messages: Raw) -> tuple[Parts, bool]:
    """Parts that are not text in the `messages` of a request, and whether there is input outside the body.

    Raises `BadRequest` where one of them has parts or calls and not all are objects.
    """
    if not nested(bytes(messages)):
        return NO_PARTS, False
    try:
        found = _OBJECTS.decode(messages)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadRequest("Invalid type for 'messages': expected an array of objects.", "messages") from error
    parts: list[dict[Name, Raw]] = []
    outside = False
    for message in found:
        for name, value in message.items():
            first = first_byte(value)
            if first == ord("[") and name.casefold() == "content":
                try:
                    parts += _OBJECTS.decode(value)
                except (msgspec.ValidationError, RecursionError):
                    outside = outside or not _all_strings(value)
            elif first == ord("{") and name.casefold() in ("audio", "content"):
                outside = True  # an earlier answer's audio, by id
    return _sum(parts, outside) if parts else (NO_PARTS, outside)


def nested(messages: bytes) -> bool:
    """As a search for `NESTED`. Brackets are few, as a rule, and finding them takes a tenth of the time that an
    expression takes which stops at every colon."""
    if len(messages) < SHORT_BYTES:
        return NESTED.search(messages) is not None
    for bracket in (b"{", b"["):
        at = 0
        for _ in range(MOST_BRACKETS):
            at = messages.find(bracket, at + 1)
            if at < 0:
                break
            before = messages[max(0, at - MOST_SPACES) : at].rstrip()
            if before.endswith(b":"):
                return True
            if not before:
                return NESTED.search(messages) is not None
        else:
            return NESTED.search(messages) is not None
    return False


def _sum(parts: list[dict[Name, Raw]], outside: bool) -> tuple[Parts, bool]:
    images = audios = files = inline_bytes = 0
    for part in parts:
        names = set(map(str, part))
        if names <= TEXT_PART:
            continue
        outside = outside or not names <= TEXT_PART | _KINDS | _FURTHER
        images += "image_url" in names
        audios += "input_audio" in names
        files += "file" in names
        for name, value in part.items():
            if str(name) in ("image_url", "file"):
                data_bytes, elsewhere = _source(value)
                inline_bytes += data_bytes
                outside = outside or elsewhere
    return Parts(images, audios, files, inline_bytes), outside


def _source(value: Raw) -> tuple[int, bool]:
    """Of an image or file: bytes of base64 data in the body, and whether it is named by an id alone."""
    if first_byte(value) != ord("{"):
        return _data_bytes(value), False
    fields = _OBJECT.decode(value)
    data_bytes = sum(_data_bytes(fields[name]) for name in ("url", "file_data") if name in fields)
    return data_bytes, not fields.keys() <= {"url", "file_data", "filename", "detail", "format"}


def _data_bytes(value: Raw) -> int:
    return len(value) if bytes(memoryview(value)[:6]) == b'"data:' else 0


def _all_strings(value: Raw) -> bool:
    return all(first_byte(item) == ord('"') for item in _ITEMS.decode(value))
