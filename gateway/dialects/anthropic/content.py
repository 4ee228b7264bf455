"""Anthropic's format, the messages: which input is not text, which is not in the body, and what of it a model reads.

Source: https://docs.anthropic.com/en/api/messages (`messages[].content[]`, `system`). A content block of a kind that is
not known here is taken to bring input from outside the body: then the context window is the bound, never too little.

What a model wrote is read here, too, in an event or a whole answer: any field of a content block or a delta is output
but for those that name, sign or cite it (`_NO_OUTPUT`), and null. The results of tools that run at the provider are
input of the model's next turn, which usage counts.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_PARTS, Parts
from gateway.dialects.fields import (
    NAMES_BETWEEN,
    Name,
    as_name,
    check_shape,
    first_byte,
    is_null,
    read_object,
    read_objects,
    wrong_type,
)
from gateway.dialects.output import Inline, Kind, Output, Piece, cut_output, cut_pieces, joined
from gateway.dialects.structure import PLAIN_BYTES, StructureBounds, check_value, more_items, too_many
from gateway.tokens import TOKENS_PER_MESSAGE, TOKENS_PRIMING

MESSAGES: Final = "messages"
CONTENT: Final = "messages.content"
_MESSAGE: Final = frozenset({"role", "content"})
_BLOCK: Final = frozenset({"type", "source", "content", "text", "cache_control", "tool_changes"})
_SOURCE: Final = frozenset({"type", "data", "media_type", "url", "file_id", "content"})
_IN_BODY: Final = frozenset(
    {
        *("text", "thinking", "redacted_thinking", "tool_use", "tool_result", "server_tool_use", "search_result"),
        *("compaction", "mcp_tool_use", "mcp_tool_result", "tool_reference"),
        *("web_search_tool_result", "code_execution_tool_result", "advisor_tool_result"),
        *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result"),
    }
)
"""Kinds of blocks whose input is in the body, but for the blocks that they contain. What was fetched from the web is
not among them: it may be a document, whose bytes bound nothing."""
_TOOLS_CHANGED: Final = frozenset({"tool_addition", "inline_tools"})
_STORED: Final = "file"
_LEVEL: Final = 1
_QUOTE, _LIST, _OBJECT = b'"[{'
_TEXTS: Final = msgspec.json.Decoder(list[dict[Name, str]], dec_hook=as_name)
_STRING: Final = msgspec.json.Decoder(str)
_SETTINGS: Final = frozenset(
    {
        *("model", "metadata", "service_tier", "stop_sequences", "inference_geo", "speed", "tool_choice", "container"),
        *("thinking", "fallbacks", "cache_control", "context_management", "mcp_servers", "diagnostics"),
    }
)
_KINDS: Final[dict[str, Kind]] = {"image": "image", "document": "file"}


class _Count:
    """Input that is not text, as it is found. Raises `BadRequest` where there are too many blocks."""

    __slots__ = ("blocks", "bounds", "files", "images", "inline_bytes", "outside")

    def __init__(self, bounds: StructureBounds) -> None:
        self.bounds = bounds
        self.blocks = self.images = self.files = self.inline_bytes = 0
        self.outside = False

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
        kind = _string(block.get("type"), f"{param}.type")
        if kind in _TOOLS_CHANGED or not is_null(block.get("tool_changes")):
            raise BadRequest("Tools can't be added within messages here: write all of them in 'tools'.", param)
        source = block.get("source")
        if kind == "image":
            self.images += 1
        elif kind == "document":
            self.files += 1
        elif kind == "container_upload":
            raise _stored(param)
        elif kind not in _IN_BODY:
            self.outside = True
        if source is not None and first_byte(source) == _OBJECT:
            self._source(read_object(source, f"{param}.source", _SOURCE), f"{param}.source")
        nested = block.get("content")
        if nested is not None and kind not in ("text", "thinking"):
            self._nested(nested, kind, param)

    def _nested(self, content: Raw, kind: str, param: str) -> None:
        """Look into nested blocks. Only what a client answers to its own tools, and documents, have blocks of pictures
        and files."""
        if kind in ("tool_result", "document", "mcp_tool_result"):
            self.read(content, param)

    def _source(self, source: dict[str, Raw], param: str) -> None:
        kind = _string(source.get("type"), f"{param}.type")
        data = source.get("data")
        if kind == "base64" and data is not None and first_byte(data) == _QUOTE:
            self.inline_bytes += len(data)
        elif kind == "content" and "content" in source:
            self.read(source["content"], param)
        elif kind == _STORED or "file_id" in source:
            raise _stored(param)
        elif kind not in ("base64", "url", "text"):
            self.outside = True


def _stored(param: str) -> BadRequest:
    """Return the refusal of a file that is kept at the provider, where it may be another account's."""
    return BadRequest("Files that are kept at the provider can't be used here: send the data itself.", param)


def count_parts(messages: Raw, system: Raw | None, bounds: StructureBounds) -> tuple[Parts, bool]:
    """Return the parts that are not text in `messages` and `system`, and whether there is input outside the body.

    Raises `BadRequest` where they are of another type, where names are tricks, and where there are too many.
    """
    if more_items(messages, bounds.messages):
        raise too_many(MESSAGES, bounds.messages, MESSAGES)
    is_plain = system is None or first_byte(system) == _QUOTE or is_null(system)
    if is_plain and len(messages) <= PLAIN_BYTES:
        try:
            plain = _TEXTS.decode(messages)
        except (msgspec.ValidationError, RecursionError):
            pass
        else:
            for shape in set(map(NAMES_BETWEEN.join, plain)):  # mostly they are alike
                check_shape(shape, MESSAGES, _MESSAGE)
            return NO_PARTS, False
    return _look_into(messages, system, bounds)


def _look_into(messages: Raw, system: Raw | None, bounds: StructureBounds) -> tuple[Parts, bool]:
    check_value(messages, bounds, _LEVEL, MESSAGES)
    found = read_objects(messages, MESSAGES, _MESSAGE)
    if found is None:
        raise wrong_type(MESSAGES, "an array of objects")
    count = _Count(bounds)
    if system is not None and not is_null(system):
        check_value(system, bounds, _LEVEL, "system")
        if first_byte(system) not in (_QUOTE, _LIST):
            raise wrong_type("system", "a string or an array of content blocks")
        count.read(system, "system")
    for message in found:
        for name, value in message.items():
            if name == "content":
                if first_byte(value) not in (_QUOTE, _LIST):
                    raise wrong_type(CONTENT, "a string or an array of content blocks")
                count.read(value, CONTENT)
            elif name != "role" and first_byte(value) in (_LIST, _OBJECT):
                count.outside = True
    parts = Parts(images=count.images, files=count.files, inline_bytes=count.inline_bytes)
    return (NO_PARTS if parts == NO_PARTS else parts), count.outside


def _string(raw: Raw | None, param: str) -> str:
    try:
        return _STRING.decode(raw if raw is not None else b"null")
    except msgspec.DecodeError as error:
        raise wrong_type(param, "a string") from error


def input_tokens(body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
    """Return the tokens of all texts and structures, by `count`, and the inline data. A body that can't be read is
    counted as plain text."""
    inline: list[Inline] = []
    try:
        fields = msgspec.json.decode(body)
        texts = [text for name, value in fields.items() for text in _of_field(name, value, inline)]
        messages = fields.get(MESSAGES)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        return count(body.decode("utf-8", "replace")), []
    around = TOKENS_PRIMING + TOKENS_PER_MESSAGE * (len(messages) if isinstance(messages, list) else 0)
    return around + sum(map(count, texts)), inline


def _of_field(name: str, value: Any, inline: list[Inline]) -> Iterator[str]:
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


_NO_OUTPUT: Final = frozenset({"type", "id", "index", "signature", "citation", "citations", "caller", "cache_control"})
"""So does a name that ends in `_id`."""
_RESULT: Final = "_tool_result"
_NO_OUTPUT_EVENTS: Final = frozenset({"ping", "error", "message_delta", "message_stop", "content_block_stop"})
_CUT_TEXTS: Final = re.compile(
    rb'"(?:text|thinking|partial_json|content|data)"\s*:\s*"((?:[^"\\]|\\.)*)|"input"\s*:\s*(\{[^{}]*\}?)'
)


def pieces(data: bytes) -> list[tuple[int, Piece]]:
    """Return the (choice, piece) pairs of one event, in order; there is one choice. Of one that is no JSON, what can be
    told."""
    try:
        event = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return pieces_of_part(data) if data.lstrip().startswith(b"{") else []
    return [(0, piece) for piece in _of_event(event) if piece] if isinstance(event, dict) else []


def output_of(body: bytes) -> Output:
    """Return what was written in a whole answer; not `known` where it has no list of content blocks."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Output(known=False)
    content = answer.get("content") if isinstance(answer, dict) else None
    failed = isinstance(answer, dict) and bool(answer.get("error"))
    if not isinstance(content, list):
        return Output(known=False, failed=failed)
    found = joined((0, piece) for block in content for piece in _of_block(block) if piece)
    return Output(found.text, found.inline, failed=failed)


def output_of_part(part: bytes) -> Output:
    """Return what can be told of an answer that is not here to its end; not `known` where something is here that says
    nothing."""
    return cut_output(_CUT_TEXTS, part)


def pieces_of_part(data: bytes) -> list[tuple[int, Piece]]:
    """Return what can be told of an event that broke off: its text; data where it is long and has none."""
    return cut_pieces(_CUT_TEXTS, data, "file")


def _of_event(event: dict[str, Any]) -> Iterator[str]:
    kind = event.get("type")
    if kind == "content_block_delta":
        yield from _of_block(event.get("delta"))
    elif kind == "content_block_start":
        yield from _of_block(event.get("content_block"))
    elif kind == "message_start":
        message = event.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else ():
            yield from _of_block(block)
    elif kind not in _NO_OUTPUT_EVENTS and not event.get("error"):
        yield from _of_block(event)


def _of_block(block: Any) -> Iterator[str]:
    """Yield the texts of a content block or a delta. An event of a kind that nobody knows is read as one."""
    if not isinstance(block, dict) or str(block.get("type", "")).endswith(_RESULT):
        return
    for name, value in block.items():
        if name in _NO_OUTPUT or name.endswith("_id") or value is None or value == {} or value == []:
            continue
        yield value if isinstance(value, str) else msgspec.json.encode(value).decode()
