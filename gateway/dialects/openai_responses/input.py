"""The Responses API, a request's input: what is not text, what is not in the body, and which texts stand alone.

Items, parts and sources are of known types; anything else is taken to stand outside the body, so that the context
window is the bound. What names an object at the provider by its id is collected, wherever in the input it stands, for
the account must own it. Source: https://platform.openai.com/docs/api-reference/responses/create (`input`).

As for chats (`gateway.dialects.openai.texts`), the text of a message stands between special tokens, so that it can be
counted by itself; all else stays at its bytes in a hold, and is counted as text where an answer was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_PARTS, Parts
from gateway.dialects.fields import first_byte, folded, is_null, read_objects, wrong_type
from gateway.dialects.openai.texts import content_texts, text_of
from gateway.dialects.output import Inline, Kind, kind_named, piece_of
from gateway.dialects.structure import StructureBounds, check_value, more_items, too_many
from gateway.tokens import TOKENS_PER_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

INPUT: Final = "input"
CONTENT: Final = "input.content"
ID_FIELDS: Final = frozenset({"file_id", "file_ids", "vector_store_ids", "container_id"})
"""Names under which the ids of objects at the provider stand in an input."""
REFERENCE: Final = "item_reference"
_ITEM: Final = frozenset({"type", "role", "content", "output", "id", "encrypted_content"})
_PLAIN_ITEMS: Final = frozenset(
    {
        *("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *("local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output"),
        *("apply_patch_call", "apply_patch_call_output", "web_search_call", "mcp_list_tools", "mcp_call"),
        *("mcp_approval_request", "mcp_approval_response", "computer_call"),
    }
)
"""Items that bring nothing but what stands in them, and images and files as parts of `content` and `output`."""
_SCREENSHOT: Final = "computer_call_output"
_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "refusal", "text", "summary_text", "reasoning_text"})
_PART: Final = frozenset({"type", "text", "image_url", "file_id", "file_data", "file_url", "input_audio", "detail"})
_DATA_URL: Final = b'"data:'
_ITEM_LEVEL: Final = 2
_PART_LEVEL: Final = 4
_QUOTE, _LIST, _OBJECT = b'"[{'
_ID_MARKS: Final = (b"file_id", b"fileid", b"ids", b"ontainer", b"\\u00", b"ID", b"Id")
"""Without any of these no name of an id stands in a body, however it is spelled or escaped."""
_STRING: Final = msgspec.json.Decoder(str)
_NULL: Final = Raw(b"null")
_SETTINGS: Final = frozenset(
    {
        *("model", "user", "safety_identifier", "service_tier", "metadata", "include", "truncation", "stream_options"),
        *("reasoning", "tool_choice", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
        *("previous_response_id", "conversation", "context_management", "moderation"),
    }
)
_NO_TEXT: Final = frozenset({"type", "id", "status", "detail", "file_id", "call_id"})


def read_input(raw: Raw, bounds: StructureBounds) -> tuple[Parts, bool, list[str]]:
    """Return the parts that are not text in the `input` of a request, whether input stands outside the body, and the
    ids of objects that it names. Raises `BadRequest`."""
    first = first_byte(raw)
    if first == _QUOTE:
        return NO_PARTS, False, []
    if first != _LIST:
        raise wrong_type(INPUT, "a string or an array of objects")
    if more_items(raw, bounds.messages):
        raise too_many("items in 'input'", bounds.messages, INPUT)
    items = read_objects(raw, INPUT, _ITEM)
    if items is None:
        raise wrong_type(INPUT, "a string or an array of objects")
    check_value(raw, bounds, 1, INPUT)
    outside = False
    parts: list[dict[str, Raw]] = []
    for item in items:
        outside |= _read_item(item, parts, bounds)
    counted, elsewhere = _count(parts) if parts else (NO_PARTS, False)
    return counted, outside or elsewhere, named_ids(raw)


def named_ids(raw: Raw | bytes) -> list[str]:
    """Return the ids of objects at the provider that a JSON value names, in order, each once. Raises `BadRequest` where
    such a field is no string or list of strings, or its name is spelled in another way."""
    text = bytes(raw)
    if not any(mark in text for mark in _ID_MARKS):
        return []
    return list(dict.fromkeys(_ids(msgspec.json.decode(text))))


def _ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, under in value.items():
            if name in ID_FIELDS:
                yield from _strings(under, name)
            elif folded(name) in _FOLDED_IDS:
                raise BadRequest(f"Unrecognized field: write '{_FOLDED_IDS[folded(name)]}', in lower case.", INPUT)
            else:
                yield from _ids(under)
    elif isinstance(value, list):
        for each in value:
            yield from _ids(each)


_FOLDED_IDS: Final[Mapping[str, str]] = {folded(name): name for name in ID_FIELDS}


def _strings(value: Any, name: str) -> Iterator[str]:
    for each in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(each, str):
            raise wrong_type(f"input.{name}", "a string")
        yield each


def _read_item(item: Mapping[str, Raw], parts: list[dict[str, Raw]], bounds: StructureBounds) -> bool:
    """Add the parts of one item; return whether it brings input that is not in the body."""
    kind = "message" if is_null(item.get("type")) else _string(item["type"], "input.type")
    if kind == REFERENCE or (is_null(item.get("type")) and "role" not in item):
        raise BadRequest(
            "References to items by their id can't be metered here: send the items, or a 'previous_response_id'.", INPUT
        )
    outside = kind not in _PLAIN_ITEMS and kind != _SCREENSHOT
    for name in ("content", "output"):
        value = item.get(name)
        if value is None or first_byte(value) in (_QUOTE, ord("n")):
            continue
        if first_byte(value) == _LIST:
            outside |= not _collect(value, parts, bounds)
        elif kind == _SCREENSHOT:
            outside |= not _collect(Raw(b"[%b]" % bytes(value)), parts, bounds)
        else:
            outside = True
    return outside


def _collect(content: Raw, parts: list[dict[str, Raw]], bounds: StructureBounds) -> bool:
    """Add the parts of one item; False where they are something else than objects."""
    if more_items(content, bounds.parts - len(parts)):
        raise too_many("parts in its input", bounds.parts, INPUT)
    found = read_objects(content, CONTENT, _PART)
    if found is None:
        return False
    parts += found
    return True


def _count(parts: list[dict[str, Raw]]) -> tuple[Parts, bool]:
    images = files = inline_bytes = 0
    outside = False
    for part in parts:
        kind = "" if is_null(part.get("type")) else _string(part["type"], f"{CONTENT}.type")
        if kind in _TEXT_PARTS:
            continue
        if kind in ("input_image", "computer_screenshot"):
            images += 1
            data = part.get("image_url")
        elif kind == "input_file":
            files += 1
            data = part.get("file_data")
        else:  # sound among them, whose fields are not settled
            outside = True
            continue
        if data is not None and (kind == "input_file" or bytes(memoryview(data)[: len(_DATA_URL)]) == _DATA_URL):
            inline_bytes += len(data)
        outside |= not is_null(part.get("file_id")) or not is_null(part.get("file_url"))
    return Parts(images, 0, files, inline_bytes, 0) if images or files else NO_PARTS, outside


def _string(raw: Raw, param: str) -> str:
    try:
        return _STRING.decode(raw)
    except msgspec.DecodeError as error:
        raise wrong_type(param, "a string") from error


class _Request(msgspec.Struct):
    instructions: Raw = _NULL
    input: Raw = _NULL


class _Item(msgspec.Struct):
    content: Raw = _NULL


_REQUEST: Final = msgspec.json.Decoder(_Request)
_ITEMS: Final = msgspec.json.Decoder(list[_Item])


def input_texts(body: bytes) -> list[tuple[str, int]]:
    """Return each text with the bytes that it takes of the body; none where it can't be read."""
    try:
        return list(_texts(_REQUEST.decode(body)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _texts(request: _Request) -> Iterator[tuple[str, int]]:
    yield from text_of(request.instructions)
    if bytes(request.input)[:1] != b"[":
        yield from text_of(request.input)
        return
    for item in _ITEMS.decode(request.input):
        yield from content_texts(item.content)


def input_tokens(body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
    """Return the tokens of all texts and structures, by `count`, and the inline data. A body that can't be read is
    counted as plain text."""
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
    """Yield the texts within one item."""
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
