"""Anthropic's format, the messages: which input is not text, which is not in the body, and what of it a model reads.

Source: https://docs.anthropic.com/en/api/messages (`messages[].content[]`, `system`). What is in the body costs no more
than its bytes, blocks of kinds that are not known here included. That holds for thinking, too, which a block has in
full in its `signature` or `data`, encrypted: recorded answers have 0.24 tokens of thinking a byte of it at most (one of
384 has 0.41), and requests that bring it back 0.21 tokens of input a byte. Pictures and documents are bounded by a
price row's `part_tokens`; a source of another kind, and data or an address in a block of another kind, by the context
window.

A message may define tools, which count as those of the request do.

What a model wrote is read here, too, in an event or a whole answer: any field of a content block or a delta is output
but for those that name, sign or cite it (`_NO_OUTPUT`), and null. The results of tools that run at the provider are
input of the model's next turn, which usage counts.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.body import (
    FIELDS,
    ITEMS,
    NULL,
    PLAIN_BYTES,
    BadRequest,
    StructureBounds,
    are_texts,
    check_items,
    check_value,
    first_byte,
    is_null,
    more_items,
    objects_of,
    read_object,
    read_objects,
    text,
    too_many,
    wrong_type,
)
from gateway.dialects.facts import NO_PARTS, Parts
from gateway.dialects.output import Inline, Kind, OutputReader, Piece, count_input
from gateway.tokens import TOKENS_PER_MESSAGE, TOKENS_PRIMING

MESSAGES: Final = "messages"
CONTENT: Final = "messages.content"
_MESSAGE: Final = frozenset({"role", "content"})
# Fields of a block that may define tools.
_CHANGES: Final = ("tool", "tools", "tool_changes")
_BLOCK: Final = frozenset({"type", "source", "content", "text", "cache_control", "file_id", *_CHANGES})
_SOURCE: Final = frozenset({"type", "data", "media_type", "url", "file_id", "content"})
# Results of tools that ran at the provider: text, and names of files that the model has made.
_RESULTS: Final = frozenset(
    {
        "web_search_tool_result",
        "code_execution_tool_result",
        "advisor_tool_result",
        "tool_search_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
    }
)
_DEFINITION: Final = "tool_definition"
_REFERENCE: Final = "_reference"
_STORED: Final = "file"
_LEVEL: Final = 1
_QUOTE, _LIST, _OBJECT = b'"[{'
_SETTINGS: Final = frozenset(
    {
        "model",
        "metadata",
        "service_tier",
        "stop_sequences",
        "inference_geo",
        "speed",
        "tool_choice",
        "container",
        "thinking",
        "fallbacks",
        "cache_control",
        "context_management",
        "mcp_servers",
        "diagnostics",
    }
)
_KINDS: Final[dict[str, Kind]] = {"image": "image", "document": "file"}
_MEDIA: Final = _KINDS.keys()
_TOOL: Final = frozenset({"type", "name", "max_uses", "max_tokens", "model", "definition", "tool"})
# Fields of a block below which tools may be defined.
_WITH_TOOLS: Final = (*_CHANGES, "content", "source")


class Found(msgspec.Struct, frozen=True):
    """What messages have beside text: parts, input outside the body, and tools that they define."""

    parts: Parts = NO_PARTS
    outside: bool = False
    tools: tuple[dict[str, Raw], ...] = ()


TEXT_ALONE: Final = Found()


class _Count:
    """Input that is not text, as it is found. Raises `BadRequest` where there are too many blocks."""

    __slots__ = ("blocks", "bounds", "files", "images", "inline_bytes", "outside", "tools")

    def __init__(self, bounds: StructureBounds) -> None:
        self.bounds = bounds
        self.blocks = self.images = self.files = self.inline_bytes = 0
        self.outside = False
        self.tools: list[dict[str, Raw]] = []

    def read(self, content: Raw, param: str) -> None:
        """Count the blocks of one content, and of those within them."""
        first = first_byte(content)
        if first == _OBJECT:  # a result of a tool may be an object; what it holds is in the body
            content = Raw(b"[" + bytes(content) + b"]")
        elif first != _LIST:
            return
        if more_items(content, self.bounds.parts - self.blocks):
            raise too_many("content blocks", self.bounds.parts, MESSAGES)
        blocks = read_objects(content, param, _BLOCK)
        if blocks is None:
            raise wrong_type(param, "a string or an array of content blocks")
        self.blocks += len(blocks)
        if self.blocks > self.bounds.parts:
            raise too_many("content blocks", self.bounds.parts, MESSAGES)
        for block in blocks:
            self._block(block, param)

    def _block(self, block: dict[str, Raw], param: str) -> None:
        kind = text(block.get("type", NULL), f"{param}.type")
        if not is_null(block.get("file_id")):
            raise _stored(param)
        for name in _CHANGES:
            if not is_null(block.get(name)):
                self._changes(block[name], f"{param}.{name}")
        source = block.get("source")
        if source is not None and first_byte(source) == _OBJECT:
            self._source(read_object(source, f"{param}.source", _SOURCE), kind, f"{param}.source")
        elif kind in _MEDIA:
            self._media(kind)
        nested = block.get("content")
        if nested is not None and kind not in _RESULTS:
            self.read(nested, param)

    def _media(self, kind: str) -> None:
        if kind == "image":
            self.images += 1
        else:
            self.files += 1

    def _source(self, source: dict[str, Raw], kind: str, param: str) -> None:
        form = text(source.get("type", NULL), f"{param}.type")
        if form == _STORED or not is_null(source.get("file_id")):
            raise _stored(param)
        if form == "content" and "content" in source:
            self.read(source["content"], param)
        elif form == "text" and kind != "image":
            return
        elif form not in ("base64", "url") or kind not in _MEDIA:
            self.outside = True
        else:
            self._media(kind)
            data = source.get("data")
            if form == "base64" and data is not None and first_byte(data) == _QUOTE:
                self.inline_bytes += len(data)

    def _changes(self, raw: Raw, param: str) -> None:
        """Keep the tools that a block defines. One that it only names stands in `tools`."""
        if first_byte(raw) not in (_OBJECT, _LIST):
            return
        given = Raw(b"[" + bytes(raw) + b"]") if first_byte(raw) == _OBJECT else raw
        for change in objects_of(given, param, _TOOL):
            kind = "" if is_null(change.get("type")) else text(change["type"], f"{param}.type")
            within = _field_with_tool(kind, change)
            if within is not None:
                self._changes(change.get(within, NULL), param)
            elif not kind.endswith(_REFERENCE):
                self.tools.append(change)
                if len(self.tools) > self.bounds.tools:
                    raise too_many("tools", self.bounds.tools, MESSAGES)


def _field_with_tool(kind: str, change: Mapping[str, Raw]) -> str | None:
    """Return the field of a change that holds the tool it defines; None if the change is the tool itself."""
    if kind == _DEFINITION:
        return "definition"
    return "tool" if "tool" in change else None


def _stored(param: str) -> BadRequest:
    """Return the refusal of a file that is kept at the provider, where it may be another account's."""
    return BadRequest("Files that are kept at the provider can't be used here: send the data itself.", param)


def read_messages(messages: Raw, system: Raw | None, bounds: StructureBounds) -> Found:
    """Return what `messages` and `system` have beside text.

    Raises `BadRequest` where they are of another type, where names are tricks, and where there are too many.
    """
    check_items(messages, bounds.messages, MESSAGES, MESSAGES)
    is_plain = system is None or first_byte(system) == _QUOTE or is_null(system)
    if is_plain and len(messages) <= PLAIN_BYTES and are_texts(messages, MESSAGES, _MESSAGE):
        return TEXT_ALONE
    return _read_blocks(messages, system, bounds)


def _read_blocks(messages: Raw, system: Raw | None, bounds: StructureBounds) -> Found:
    check_value(messages, bounds, _LEVEL, MESSAGES)
    found = objects_of(messages, MESSAGES, _MESSAGE)
    count = _Count(bounds)
    if system is not None and not is_null(system):
        check_value(system, bounds, _LEVEL, "system")
        if first_byte(system) not in (_QUOTE, _LIST):
            raise wrong_type("system", "a string or an array of content blocks")
        count.read(system, "system")
    for message in found:
        content = message.get("content")
        if content is None:
            continue
        if first_byte(content) not in (_QUOTE, _LIST):
            raise wrong_type(CONTENT, "a string or an array of content blocks")
        count.read(content, CONTENT)
    parts = Parts(images=count.images, files=count.files, inline_bytes=count.inline_bytes)
    return Found(NO_PARTS if parts == NO_PARTS else parts, count.outside, tuple(count.tools))


def change_tools(messages: Raw, change: Callable[[Raw], Raw]) -> Raw:
    """Return messages in which each tool that they define is replaced by `change(tool)`; the same object if nothing
    changes. For messages that `read_messages` has accepted."""
    return change_each(messages, lambda message: _changed_within(message, ("content",), change))


def change_tools_of_system(system: Raw, change: Callable[[Raw], Raw]) -> Raw:
    """Do the same for the blocks of `system`."""
    return change_each(system, lambda block: _changed_within(block, _WITH_TOOLS, change))


def change_each(values: Raw, change: Callable[[Raw], Raw]) -> Raw:
    """Return a list, or a single object, with each item replaced by `change(item)`; the same object if nothing
    changes."""
    if first_byte(values) == _OBJECT:
        return change(values)
    if first_byte(values) != _LIST:
        return values
    before = ITEMS.decode(values)
    after = [change(each) for each in before]
    same = all(old is new for old, new in zip(before, after, strict=True))
    return values if same else Raw(msgspec.json.encode(after))


def _changed_within(value: Raw, names: Iterable[str], change: Callable[[Raw], Raw]) -> Raw:
    """Return a message, block or source with the tools changed that are defined below the fields in `names`."""
    if first_byte(value) != _OBJECT:
        return value
    fields = FIELDS.decode(value)
    kind = fields.get("type")
    is_result = kind is not None and text(kind, f"{CONTENT}.type") in _RESULTS
    changed = {}
    for name in names:
        if name not in fields or (is_result and name == "content"):  # which nobody has looked into
            continue
        if name in _CHANGES:
            made = change_each(fields[name], lambda each: _changed_definition(each, change))
        else:
            made = change_each(fields[name], lambda each: _changed_within(each, _WITH_TOOLS, change))
        if made is not fields[name]:
            changed[name] = made
    return Raw(msgspec.json.encode({**fields, **changed})) if changed else value


def _changed_definition(value: Raw, change: Callable[[Raw], Raw]) -> Raw:
    """Return a tool, or what defines one, with the tool changed. Finds tools where `_Count` counts them."""
    if first_byte(value) != _OBJECT:
        return value
    fields = FIELDS.decode(value)
    kind = "" if is_null(fields.get("type")) else text(fields["type"], f"{CONTENT}.type")
    name = _field_with_tool(kind, fields)
    if name is None:
        return change(value)
    if name not in fields:
        return value
    made = change_each(fields[name], lambda each: _changed_definition(each, change))
    return value if made is fields[name] else Raw(msgspec.json.encode({**fields, name: made}))


def input_tokens(body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
    """Return the tokens of all texts and structures, by `count`, and the inline data."""
    return count_input(body, count, _of_field)


def _of_field(name: str, value: Any, inline: list[Inline]) -> Iterator[str | int]:
    if name == MESSAGES:
        yield TOKENS_PRIMING + TOKENS_PER_MESSAGE * (len(value) if isinstance(value, list) else 0)
    if name in (MESSAGES, "system"):
        yield from _of_content(value, inline)
    elif name not in _SETTINGS and not isinstance(value, bool | int | float | None):
        yield value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _of_content(value: Any, inline: list[Inline]) -> Iterator[str]:
    """Yield the texts of messages, contents and blocks; the data of pictures and documents goes to `inline`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _of_content(item, inline)
    elif isinstance(value, dict):
        kind, source = value.get("type"), value.get("source")
        if kind in _KINDS and isinstance(source, dict) and source.get("type") != "content":
            data = source.get("data") or source.get("url") or source.get("file_id") or ""
            if source.get("type") == "text":
                yield str(data)
            else:
                inline.append(Inline(_KINDS[kind], len(str(data))))
        for name, each in value.items():
            if name == "input":
                yield msgspec.json.encode(each).decode()
            elif name not in ("type", "role", "cache_control", "signature", "citations") and not (
                name == "source" and kind in _KINDS and isinstance(each, dict) and each.get("type") != "content"
            ):
                yield from _of_content(each, inline)


# So does a name that ends in `_id`.
_NO_OUTPUT: Final = frozenset({"type", "id", "index", "signature", "citation", "citations", "caller", "cache_control"})
_RESULT: Final = "_tool_result"
_NO_OUTPUT_EVENTS: Final = frozenset({"ping", "error", "message_delta", "message_stop", "content_block_stop"})
_CUT_TEXTS: Final = re.compile(
    rb'"(?:text|thinking|partial_json|content|data)"\s*:\s*"((?:[^"\\]|\\.)*)|"input"\s*:\s*(\{[^{}]*\}?)'
)


def _of_event(event: dict[str, Any]) -> Iterator[tuple[int, Piece]]:
    """Yield what one event says; there is one choice."""
    kind = event.get("type")
    if kind == "content_block_delta":
        yield from _of_block(event.get("delta"))
    elif kind == "content_block_start":
        yield from _of_block(event.get("content_block"))
    elif kind == "message_start":
        message = event.get("message")
        yield from _of_answer(message) if isinstance(message, dict) else ()
    elif kind not in _NO_OUTPUT_EVENTS and not event.get("error"):
        yield from _of_block(event)


def _of_answer(answer: dict[str, Any]) -> Iterator[tuple[int, Piece]]:
    content = answer.get("content")
    for block in content if isinstance(content, list) else ():
        yield from _of_block(block)


def _of_block(block: Any) -> Iterator[tuple[int, Piece]]:
    """Yield the texts of a content block or a delta. An event of a kind that nobody knows is read as one."""
    if not isinstance(block, dict) or str(block.get("type", "")).endswith(_RESULT):
        return
    for name, value in block.items():
        if name in _NO_OUTPUT or name.endswith("_id") or value is None or value == {} or value == []:
            continue
        yield 0, value if isinstance(value, str) else msgspec.json.encode(value).decode()


OUTPUT: Final = OutputReader(
    of_answer=_of_answer,
    of_event=_of_event,
    is_known=lambda answer: isinstance(answer.get("content"), list),
    texts=_CUT_TEXTS,
    cut_kind="file",
)
