"""Gemini's format, what a request brings: `contents`, `systemInstruction`, `content`. This file owns that count.

Source: https://ai.google.dev/api/caching#Content. What is in the body costs at most a token a byte, parts that are not
known here included. So do thoughts, which a `thoughtSignature` has in full, encrypted: recorded answers have 0.24
tokens of thoughts a byte of it at most (one of 384 has 0.41), and requests that bring it back 0.21 tokens of input a
byte. Inline images and documents are bounded by a price row's `part_tokens`, sound by its bytes; inline video, files by
their address, and parts that are not known here and have data or an address, by the context window. Files that are
stored at Google are shared by all who use the operator's key: an address that leads there is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_PARTS, Parts
from gateway.dialects.fields import first_byte, read_object, wrong_type
from gateway.dialects.gemini.names import Names
from gateway.dialects.output import Inline, kind_of
from gateway.dialects.structure import PLAIN_BYTES, StructureBounds, more_items, too_many
from gateway.dialects.values import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

CONTENTS: Final = "contents"
_CONTENT: Final = Names("role", "parts")
_PART: Final = Names(
    *("text", "thought", "thoughtSignature", "inlineData", "fileData", "functionCall", "functionResponse"),
    *("executableCode", "codeExecutionResult", "videoMetadata", "partMetadata", "mediaResolution"),
    *("toolCall", "toolResponse"),
)
_IN_BODY: Final = frozenset(
    {
        *("text", "thought", "thoughtSignature", "functionCall", "executableCode", "codeExecutionResult"),
        *("videoMetadata", "partMetadata", "mediaResolution", "toolCall", "toolResponse"),
    }
)
"""Parts, or fields next to them, that cost no more than their bytes."""
_ELSEWHERE: Final = frozenset({"data", "uri", "url", "fileUri", "file_uri"})
"""Names by which a part that is not known here brings more than its bytes."""
_BLOB: Final = Names("mimeType", "data", "displayName")
_FILE: Final = Names("mimeType", "fileUri", "displayName")
_FUNCTION_RESPONSE: Final = Names("id", "name", "response", "parts", "willContinue", "scheduling")
_GOOGLES_HOSTS: Final = ("googleapis.com", "cloud.google.com")
_QUOTE, _OBJECT = b'"{'
_SHORTEST_ITEM_BYTES: Final = len("{},")
_FILE_HINT: Final = "send it as 'inlineData', or by an 'https://' address that is open to all."


class _PlainPart(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    text: str


class _PlainContent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A turn as nearly all are: texts and nothing else."""

    parts: list[_PlainPart]
    role: str | None = None


_PLAIN: Final = msgspec.json.Decoder(list[_PlainContent])


class Counted:
    """What was found in the parts of a request, added up."""

    __slots__ = ("audio_bytes", "audios", "files", "images", "inline_bytes", "outside", "seen")

    def __init__(self) -> None:
        self.images = self.audios = self.files = self.inline_bytes = self.audio_bytes = self.seen = 0
        self.outside = False

    def parts(self) -> Parts:
        """Return the sums."""
        if not self.images and not self.audios and not self.files:
            return NO_PARTS
        return Parts(self.images, self.audios, self.files, self.inline_bytes, self.audio_bytes)


def count_contents(raw: Raw, param: str, bounds: StructureBounds, counted: Counted) -> None:
    """Add up the parts of one content or a list of them. Raises `BadRequest`."""
    if len(raw) <= PLAIN_BYTES and _is_plain(bytes(raw), bounds):
        return
    if first_byte(raw) == _QUOTE:
        raise wrong_type(param, "an array of objects")
    for content in _CONTENT.read_each(raw, param, bounds.messages):
        if "role" in content:
            text(content["role"], f"{param}.role")
        if "parts" in content:
            _count_parts(content["parts"], f"{param}.parts", bounds, counted)


def _is_plain(contents: bytes, bounds: StructureBounds) -> bool:
    """Return whether all parts are texts, each name once: told by the number of strings, or of the names where some
    strings are escaped (a name within a string has escaped quotes)."""
    try:
        turns = _PLAIN.decode(contents)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    parts, roles = sum(len(turn.parts) for turn in turns), sum(turn.role is not None for turn in turns)
    if len(turns) > bounds.messages or parts > bounds.parts:
        return False  # which is said elsewhere
    if b"\\" not in contents:
        return contents.count(b'"') == 4 * parts + 2 * len(turns) + 4 * roles
    names = contents.count(b'"text"'), contents.count(b'"parts"'), contents.count(b'"role"')
    return b"\\u" not in contents and names == (parts, len(turns), roles)


def _count_parts(raw: Raw, param: str, bounds: StructureBounds, counted: Counted) -> None:
    left = bounds.parts - counted.seen
    if len(raw) > _SHORTEST_ITEM_BYTES * left and more_items(raw, left):
        raise too_many("parts", bounds.parts, param)
    parts = _PART.read_each(raw, param, left)
    counted.seen += len(parts)
    for part in parts:
        for name, value in part.items():
            if name == "text":
                if first_byte(value) != _QUOTE:
                    raise wrong_type(f"{param}.text", "a string")
            elif name == "inlineData":
                _count_blob(value, f"{param}.inlineData", counted)
            elif name == "fileData":
                _check_file(value, f"{param}.fileData")
                counted.outside = True
            elif name == "functionResponse":
                response = _FUNCTION_RESPONSE.read(value, f"{param}.functionResponse")
                if "parts" in response:
                    _count_parts(response["parts"], f"{param}.functionResponse.parts", bounds, counted)
            elif name not in _IN_BODY and first_byte(value) == _OBJECT:
                counted.outside = counted.outside or not _ELSEWHERE.isdisjoint(read_object(value, f"{param}.{name}"))


def _count_blob(raw: Raw, param: str, counted: Counted) -> None:
    blob = _BLOB.read(raw, param)
    data = blob.get("data")
    if data is None or first_byte(data) != _QUOTE:
        raise wrong_type(f"{param}.data", "a string in base64")
    kind = kind_of(text(blob["mimeType"], f"{param}.mimeType")) if "mimeType" in blob else None
    if kind == "audio":
        counted.audios += 1
        counted.audio_bytes += len(data)
        return
    counted.inline_bytes += len(data)
    if kind == "image":
        counted.images += 1
    elif kind == "file":
        counted.files += 1
    else:  # a second of video is few bytes and many tokens
        counted.outside = True


def _check_file(raw: Raw, param: str) -> None:
    """Refuse an address that leads to what is stored under the operator's key. Raises `BadRequest`."""
    address = _FILE.read(raw, param).get("fileUri")
    if address is None:
        raise BadRequest(f"Missing required parameter: '{param}.fileUri'.", param)
    uri = text(address, f"{param}.fileUri")
    try:
        parts = urlsplit(uri)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        host = ""
    plain = uri.isascii() and uri.isprintable() and not set(" \\@%") & set(uri.partition("//")[2].partition("/")[0])
    stored = any(host == each or host.endswith("." + each) for each in _GOOGLES_HOSTS)
    if not host or not plain or stored or parts.scheme.lower() not in ("http", "https"):
        raise BadRequest(f"A file that is stored at the provider can't be used here: {_FILE_HINT}", f"{param}.fileUri")


class _Part(msgspec.Struct):
    text: Raw = Raw(b"null")


class _Content(msgspec.Struct):
    parts: Raw = Raw(b"null")


_CONTENTS: Final = msgspec.json.Decoder(list[_Content] | _Content)
_PARTS: Final = msgspec.json.Decoder(list[_Part] | _Part)
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_REQUESTS: Final = msgspec.json.Decoder(list[dict[str, Raw]])
_TEXT: Final = msgspec.json.Decoder(str)
_SETTINGS: Final = frozenset(
    {
        *("model", "safetySettings", "safety_settings", "toolConfig", "tool_config", "labels", "serviceTier"),
        *("service_tier", "store", "taskType", "task_type", "outputDimensionality", "output_dimensionality"),
        *("cachedContent", "cached_content", "continuationToken", "continuation_token"),
    }
)
"""Fields of a request that a model does not read."""


def input_texts(body: bytes) -> list[tuple[str, int]]:
    """Return each text of the contents, with the bytes that it takes of a body that `request.parse` accepts; none where
    it can't be read."""
    try:
        fields = _FIELDS.decode(body)
        requests: Iterable[Mapping[str, Raw]] = _REQUESTS.decode(fields["requests"]) if "requests" in fields else ()
        found = [each for request in (fields, *requests) for each in _texts(request)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return found


def _texts(fields: Mapping[str, Raw]) -> Iterator[tuple[str, int]]:
    for name in ("systemInstruction", "system_instruction", "contents", "content"):
        raw = fields.get(name)
        if raw is None or first_byte(raw) not in b"{[":
            continue
        contents = _CONTENTS.decode(raw)
        for content in contents if isinstance(contents, list) else (contents,):
            if first_byte(content.parts) in b"{[":
                parts = _PARTS.decode(content.parts)
                for part in parts if isinstance(parts, list) else (parts,):
                    if first_byte(part.text) == _QUOTE:
                        yield _TEXT.decode(part.text), len(part.text)


def input_tokens(body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
    """Return the tokens of all texts and structures of a request, by `count`, and the inline data. A body that can't be
    read is counted as plain text."""
    inline: list[Inline] = []
    try:
        fields = msgspec.json.decode(body)
        texts = [each for name, value in fields.items() if name not in _SETTINGS for each in _walk(value, inline)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        return count(body.decode("utf-8", "replace")), []
    return sum(map(count, texts)), inline


def _walk(value: Any, inline: list[Inline]) -> Iterator[str]:
    """Yield the strings and numbers of a value; inline data goes to `inline`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, under in value.items():
            if name in ("inlineData", "inline_data") and isinstance(under, dict):
                inline += _blobs(under)
            elif name not in ("thoughtSignature", "thought_signature"):
                if name not in ("parts", "text", "role", "contents", "content", "requests"):
                    yield name
                yield from _walk(under, inline)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, inline)
    elif value is not None and not isinstance(value, bool):
        yield msgspec.json.encode(value).decode()


def _blobs(blob: Mapping[str, Any]) -> Sequence[Inline]:
    data, mime_type = blob.get("data"), blob.get("mimeType") or blob.get("mime_type")
    if not isinstance(data, str):
        return ()
    return (Inline((isinstance(mime_type, str) and kind_of(mime_type)) or "file", len(data)),)
