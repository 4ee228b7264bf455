"""The Responses API, the answer: usage, units and output of a whole response. This file owns that reading.

Source: https://platform.openai.com/docs/api-reference/responses/object. Tokens stand in `usage` under the names that
`gateway.dialects.openai.usage` reads. Searches are those that `tool_usage` counts; where it is absent, the calls in
`output` that searched: opened pages and calls that failed are not billed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.openai.usage import usage_from_json
from gateway.dialects.output import Kind, Output, Piece, joined, kind_named, piece_of

if TYPE_CHECKING:
    from gateway.dialects.facts import Reported

_NULL: Final = Raw(b"null")
_NO_OUTPUT: Final = frozenset(
    {"type", "id", "call_id", "item_id", "status", "role", "annotations", "logprobs", "phase"}
)
"""Names of fields of an item that say which one it is, not what the model wrote."""
_NOT_WRITTEN: Final = frozenset({"file_search_call", "mcp_list_tools"})
"""Items that tools made, which the model reads and did not write."""
_SEARCH_MARKS: Final = (b"web_search", b'"tool_usage"')
MAX_SEARCHED_BYTES: Final = 4 << 20


class _WebSearch(msgspec.Struct):
    num_requests: int | None = None


class _ToolUsage(msgspec.Struct):
    web_search: _WebSearch | None = None


class _Action(msgspec.Struct):
    type: str | None = None


class _Item(msgspec.Struct):
    type: str | None = None
    status: str | None = None
    action: Raw = _NULL


class _Response(msgspec.Struct):
    tool_usage: Raw = _NULL
    output: Raw = _NULL


_RESPONSE: Final = msgspec.json.Decoder(_Response)
_TOOL_USAGE: Final[msgspec.json.Decoder[_ToolUsage | None]] = msgspec.json.Decoder(_ToolUsage | None)
_ITEMS: Final = msgspec.json.Decoder(list[_Item])
_ACTION: Final = msgspec.json.Decoder(_Action)


def usage_of(response: bytes) -> Reported | None:
    """Return the usage of a whole response object, None where it reports none. Raises `GarbageAnswer` where it is not a
    JSON object."""
    reported = usage_from_json("", response)
    if reported is None or reported.usage.searches or not any(mark in response for mark in _SEARCH_MARKS):
        return reported
    searches = min(_searches(response), MAX_COUNT)
    if not searches:
        return reported
    return msgspec.structs.replace(reported, usage=msgspec.structs.replace(reported.usage, searches=searches))


def _searches(response: bytes) -> int:
    answer = _RESPONSE.decode(response)
    try:
        counted = _TOOL_USAGE.decode(answer.tool_usage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        counted = None
    if counted is not None and counted.web_search is not None and counted.web_search.num_requests is not None:
        return max(0, counted.web_search.num_requests)
    try:
        items = _ITEMS.decode(answer.output)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return bytes(answer.output).count(b'"web_search_call"')
    return sum(
        1 for item in items if item.type == "web_search_call" and item.status != "failed" and _searched(item.action)
    )


def _searched(action: Raw) -> bool:
    """Whether an action is a search; one that can't be read is."""
    try:
        return _ACTION.decode(action).type in ("search", None)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True


def output_of(body: bytes) -> Output:
    """Return what was written in a whole response; not `known` where it has no list of items."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Output(known=False)
    if not isinstance(answer, dict):
        return Output(known=False)
    items = answer.get("output")
    found = joined((0, piece) for piece in pieces_of_items(items if isinstance(items, list) else []))
    return Output(found.text, found.inline, isinstance(items, list), bool(answer.get("error")))


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
