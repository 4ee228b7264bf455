"""The Responses API, the events of a stream: usage in the terminal one, errors, and what the model wrote.

Source: https://platform.openai.com/docs/api-reference/responses-streaming. A stream ends with `response.completed`,
`response.incomplete` or `response.failed`, whose `response` has the usage; no event says that one was cancelled. What
passed in deltas is said again in events that end an item or a part (`….done`), which count only where the item has no
deltas of its own.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.exceptions import GarbageAnswer
from gateway.dialects.facts import EventFacts
from gateway.dialects.openai.output import pieces_of_part
from gateway.dialects.openai_responses.answer import pieces_of, pieces_of_items, usage_of
from gateway.dialects.output import Inline, Piece

_NULL: Final = Raw(b"null")
ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_DELTA: Final = ".delta"
_PARTIAL: Final = ".partial_image"
_ITEM_DONE: Final = "response.output_item.done"
_OF_AN_EVENT: Final = frozenset(
    {
        *("type", "item_id", "output_index", "content_index", "summary_index", "sequence_number", "obfuscation"),
        *("logprobs", "annotation_index", "command_index", "partial_image_index", "stream_id"),
    }
)
_WITH_DELTAS: Final = frozenset(
    {"message", "function_call", "custom_tool_call", "reasoning", "mcp_call", "code_interpreter_call"}
)
"""Items whose text came in deltas before."""


class _Event(msgspec.Struct):
    type: str | None = None
    response: Raw = _NULL
    error: Raw = _NULL


class _Error(msgspec.Struct):
    error: Raw = _NULL


_EVENT: Final = msgspec.json.Decoder(_Event)
_ERROR: Final = msgspec.json.Decoder(_Error | None)
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])


class ResponseEvents:
    """Reads the data of a stream's events; an `EventReader`."""

    usage_marker: Final = b'"usage"'
    usage_pattern: Final = re.compile(rb'"usage"\s*:\s*\{')
    error_marker: Final = b'"error"'
    finish_markers: Final[tuple[bytes, ...]] = ()
    terminal_markers: Final = (b"response.completed", b"response.incomplete", b"response.failed", b"[DONE]")
    terminal_lines: Final = tuple(
        begin + end.encode()
        for end in sorted(ENDS)
        for begin in (b"event: ", b"event:", b'data: {"type":"', b'data: {"type": "', b'data:{"type":"')
    )

    def is_terminal(self, event: bytes, data: bytes) -> bool:
        """Whether this is one of the events that end a response."""
        read = _read(data)
        return (read is not None and read.type in ENDS) or data.strip() == b"[DONE]"

    def facts(self, data: bytes) -> EventFacts:
        """Usage of a terminal event, and errors: of their own event, or of a response that failed."""
        event = _read(data)
        if event is None:
            return EventFacts()
        failed = event.error != _NULL or event.type in ("error", "response.failed") or _has_error(event.response)
        if event.type not in ENDS:
            return EventFacts(is_error=failed)
        try:
            reported = usage_of(bytes(event.response))
        except GarbageAnswer:
            reported = None
        return EventFacts(reported, has_usage=reported is not None, is_error=failed)

    def pieces(self, data: bytes) -> list[tuple[int, Piece]]:
        """What the model wrote in one event."""
        try:
            return [(0, piece) for piece in _pieces(msgspec.json.decode(data))]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return pieces_of_part(data) if data.lstrip().startswith(b"{") else []

    def pieces_of_part(self, data: bytes) -> list[tuple[int, Piece]]:
        """The output in the data of an event that broke off, as far as it can be told; what an event says that names
        no delta was said before."""
        return pieces_of_part(data.replace(b'"delta"', b'"text"', 1)) if b'.delta"' in data else []

    def without_null_usage(self, block: bytes) -> bytes:
        """The same events: nothing is asked of the provider that the client did not ask for."""
        return block

    def with_cost(self, data: bytes, cost_usd: str) -> bytes:
        """The same data with `cost_usd` in the usage of its response; unchanged where it has none."""
        try:
            event = _FIELDS.decode(data)
            response = _FIELDS.decode(event["response"])
            usage = _FIELDS.decode(response["usage"])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            return data
        usage["cost_usd"] = Raw(msgspec.json.encode(cost_usd))
        response["usage"] = Raw(msgspec.json.encode(usage))
        event["response"] = Raw(msgspec.json.encode(response))
        return msgspec.json.encode(event)


def _read(data: bytes) -> _Event | None:
    try:
        return _EVENT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _has_error(response: Raw) -> bool:
    if response == _NULL:
        return False
    try:
        read = _ERROR.decode(response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return read is not None and read.error != _NULL


def _pieces(event: Any) -> list[Piece]:
    if not isinstance(event, dict):
        return []
    kind = event.get("type")
    if not isinstance(kind, str):
        return []
    if kind.endswith((_DELTA, _PARTIAL)):
        said = {name: value for name, value in event.items() if name not in _OF_AN_EVENT}
        return [piece for piece in pieces_of(said, "image" if kind.endswith(_PARTIAL) else None) if _says(piece)]
    if kind == _ITEM_DONE:
        item = event.get("item")
        if isinstance(item, dict) and item.get("type") not in _WITH_DELTAS:
            return list(pieces_of_items([item]))
    return []


def _says(piece: Piece) -> bool:
    return isinstance(piece, Inline) or bool(piece)
