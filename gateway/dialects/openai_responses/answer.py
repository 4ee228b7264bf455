"""The Responses API, the answer: usage, units and output of a whole response, or of the events of a stream.

Source: https://platform.openai.com/docs/api-reference/responses/object and .../responses-streaming. Tokens stand in
`usage` under the names that `gateway.dialects.openai.answer` reads. Searches are those that `tool_usage` counts; where
it is absent, the calls in `output` that searched: opened pages and calls that failed are not billed.

A stream ends with `response.completed`, `response.incomplete` or `response.failed`, whose `response` has the usage; no
event says that one was cancelled. What passed in deltas is said again in events that end an item or a part (`….done`),
which count only where the item has no deltas of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.body import NULL, GarbageAnswer, decoded
from gateway.dialects.facts import EventFacts, Reported
from gateway.dialects.openai.answer import CITATION, TEXTS, PlainResponseUsage, plain_usage, usage_from_json
from gateway.dialects.output import Kind, OutputReader, Piece, kind_named, piece_of
from gateway.dialects.reader import EventReader, with_charge

# Names of fields of an item that say which one it is, not what the model wrote.
_NO_OUTPUT: Final = frozenset(
    {"type", "id", "call_id", "item_id", "status", "role", "annotations", "logprobs", "phase"}
)
# Items that tools made, which the model reads and did not write.
_NOT_WRITTEN: Final = frozenset({"file_search_call", "mcp_list_tools"})
_SEARCH_MARKS: Final = (b"web_search", b'"tool_usage"', CITATION)
MAX_SEARCHED_BYTES: Final = 4 << 20
ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_DELTA: Final = ".delta"
_PARTIAL: Final = ".partial_image"
_ITEM_DONE: Final = "response.output_item.done"
_OF_AN_EVENT: Final = frozenset(
    {
        "type",
        "item_id",
        "output_index",
        "content_index",
        "summary_index",
        "sequence_number",
        "obfuscation",
        "logprobs",
        "annotation_index",
        "command_index",
        "partial_image_index",
        "stream_id",
    }
)
# Items whose text has already come in deltas.
_WITH_DELTAS: Final = frozenset(
    {"message", "function_call", "custom_tool_call", "reasoning", "mcp_call", "code_interpreter_call"}
)


class _PlainResponse(msgspec.Struct):
    """A response with usage as OpenAI itself writes it, and with no error."""

    usage: PlainResponseUsage
    service_tier: str | None = None
    model: str | None = None
    error: None = None


class _PlainEnd(msgspec.Struct):
    """An event that ends such a response."""

    type: Literal["response.completed", "response.incomplete"]
    response: _PlainResponse
    error: None = None


class _WebSearch(msgspec.Struct):
    num_requests: int | None = None


class _ToolUsage(msgspec.Struct):
    web_search: _WebSearch | None = None


class _Action(msgspec.Struct):
    type: str | None = None


class _Item(msgspec.Struct):
    type: str | None = None
    status: str | None = None
    action: Raw = NULL


class _Response(msgspec.Struct):
    tool_usage: Raw = NULL
    output: Raw = NULL


_PLAIN: Final = msgspec.json.Decoder(_PlainResponse)
_PLAIN_END: Final = msgspec.json.Decoder(_PlainEnd)
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_TOOL_USAGE: Final = msgspec.json.Decoder(_ToolUsage)
_ITEMS: Final = msgspec.json.Decoder(list[_Item])
_ACTION: Final = msgspec.json.Decoder(_Action)


def usage_of(response: bytes) -> Reported | None:
    """Return the usage of a whole response object, None where it reports none. Raises `GarbageAnswer` where it is not a
    JSON object."""
    searched = _may_have_searched(response)
    if not searched and (plain := decoded(_PLAIN, response)) and (reported := _plainly_reported(plain)):
        return reported
    reported = usage_from_json("", response)
    if reported is None or reported.usage.searches or not searched:
        return reported
    searches = min(_searches(response), MAX_COUNT)
    if not searches:
        return reported
    return msgspec.structs.replace(reported, usage=reported.usage.with_counts(searches=searches))


def _may_have_searched(data: bytes) -> bool:
    """Return whether a search may be counted or told of there."""
    return any(data.find(mark) >= 0 for mark in _SEARCH_MARKS)


def _plainly_reported(response: _PlainResponse) -> Reported | None:
    """Return what such a response reports, where its counts agree: what `usage_from_json` makes of it, for less."""
    usage = plain_usage(response.usage)
    return Reported(usage, response.service_tier, response.model) if usage else None


def _searches(response: bytes) -> int:
    answer = _RESPONSE.decode(response)
    counted = decoded(_TOOL_USAGE, answer.tool_usage)
    if counted is not None and counted.web_search is not None and counted.web_search.num_requests is not None:
        return max(0, counted.web_search.num_requests)
    items = decoded(_ITEMS, answer.output)
    if items is None:
        return bytes(answer.output).count(b'"web_search_call"')
    return sum(
        1 for item in items if item.type == "web_search_call" and item.status != "failed" and _searched(item.action)
    )


def _searched(action: Raw) -> bool:
    """Return whether an action is a search; one that can't be read is."""
    read = decoded(_ACTION, action)
    return read is None or read.type in ("search", None)


def _of_answer(answer: dict[str, Any]) -> Iterator[tuple[int, Piece]]:
    items = answer.get("output")
    for piece in pieces_of_items(items if isinstance(items, list) else []):
        yield 0, piece


def pieces_of_items(items: list[Any]) -> Iterator[Piece]:
    """Yield what the model wrote in the items of an output."""
    for item in items:
        if isinstance(item, dict) and item.get("type") not in _NOT_WRITTEN:
            yield from pieces_of(item, None)


def pieces_of(value: Any, around: Kind | None) -> Iterator[Piece]:
    """Yield the pieces of text and data below one value, none of them empty."""
    if isinstance(value, str):
        if value:
            yield piece_of(value, around)
    elif isinstance(value, dict):
        kind = value.get("type")
        inner = kind_named(kind, around) if isinstance(kind, str) else around
        for name, under in value.items():
            if name not in _NO_OUTPUT:
                yield from pieces_of(under, kind_named(name, inner))
    elif isinstance(value, list):
        for each in value:
            yield from pieces_of(each, around)
    elif value is not None:
        yield msgspec.json.encode(value).decode()


class _Event(msgspec.Struct):
    type: str | None = None
    response: Raw = NULL
    error: Raw = NULL


class _Error(msgspec.Struct):
    error: Raw = NULL


_EVENT: Final = msgspec.json.Decoder(_Event)
_ERROR: Final = msgspec.json.Decoder(_Error)


def _of_event(event: dict[str, Any]) -> Iterator[tuple[int, Piece]]:
    kind = event.get("type")
    if not isinstance(kind, str):
        return
    if kind.endswith((_DELTA, _PARTIAL)):
        fields = {name: value for name, value in event.items() if name not in _OF_AN_EVENT}
        for piece in pieces_of(fields, "image" if kind.endswith(_PARTIAL) else None):
            yield 0, piece
    elif kind == _ITEM_DONE:
        item = event.get("item")
        if isinstance(item, dict) and item.get("type") not in _WITH_DELTAS:
            for piece in pieces_of_items([item]):
                yield 0, piece


OUTPUT: Final = OutputReader(
    of_answer=_of_answer,
    of_event=_of_event,
    is_known=lambda answer: isinstance(answer.get("output"), list),
    texts=TEXTS,
)


class ResponseEvents(EventReader):
    """Reads the data of a stream's events."""

    terminal_markers: tuple[bytes, ...] = (b"response.completed", b"response.incomplete", b"response.failed", b"[DONE]")
    terminal_lines: tuple[bytes, ...] = tuple(
        begin + end.encode()
        for end in sorted(ENDS)
        for begin in (b"event: ", b"event:", b'data: {"type":"', b'data: {"type": "', b'data:{"type":"')
    )

    tool_call_marker = b"response.output_item.done"
    tool_call_pattern = re.compile(
        rb'"type"\s*:\s*"(?!(?:function|custom_tool|local_shell|shell|computer|apply_patch|tool_search)_call")\w+_call"'
    )

    def is_terminal(self, event: bytes, data: bytes) -> bool:
        """Return whether this is one of the events that end a response."""
        read = decoded(_EVENT, data)
        return (read is not None and read.type in ENDS) or data.strip() == b"[DONE]"

    def facts(self, data: bytes) -> EventFacts:
        """Return the usage of a terminal event, and errors: of their own event, or of a response that failed."""
        if not _may_have_searched(data) and (plain := decoded(_PLAIN_END, data)):
            reported = _plainly_reported(plain.response)
            if reported is not None:
                return EventFacts(reported, has_usage=True)
        event = decoded(_EVENT, data)
        if event is None:
            return EventFacts()
        failed = event.error != NULL or event.type in ("error", "response.failed") or _has_error(event.response)
        if event.type not in ENDS:
            return EventFacts(is_error=failed)
        try:
            reported = usage_of(bytes(event.response))
        except GarbageAnswer:
            reported = None
        return EventFacts(reported, has_usage=reported is not None, is_error=failed)

    pieces = staticmethod(OUTPUT.pieces)

    def pieces_of_part(self, data: bytes) -> list[tuple[int, Piece]]:
        """Return the output in the data of an event that broke off, as far as it can be told; what an event says that
        names no delta was said before."""
        return OUTPUT.pieces_of_part(data.replace(b'"delta"', b'"text"', 1)) if b'.delta"' in data else []

    def with_charge(self, data: bytes, charge_usd: str) -> bytes:
        """Return the same data with `charge_usd` in the usage of its response; unchanged where it has none."""
        return with_charge(data, ("response", "usage"), charge_usd)


def _has_error(response: Raw) -> bool:
    read = decoded(_ERROR, response) if response != NULL else None
    return read is not None and read.error != NULL
