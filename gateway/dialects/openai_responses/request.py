"""The Responses API, the request: what it asks for at most, and which tools run at the provider.

Source: https://platform.openai.com/docs/api-reference/responses/create. Bodies are refused by the same rules as those
of chats (`gateway.dialects.openai.dialect`). What would have the provider choose the model, the tools or the text by
itself (`prompt`, `multi_agent`) is refused, because nothing here bounds it. Each use of a tool that runs at the
provider (`gateway.dialects.openai.work`) calls the model again with what has been found; `max_tool_calls` bounds them.
Where the client gives none, the tools are left open, and the gateway grants a number of calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.decoding import NULL, TEXT
from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_METADATA, NO_WORK, Creation, ParsedRequest, Stored, Work
from gateway.dialects.fields import field_of, first_byte, is_null, read_object, wrong_type
from gateway.dialects.openai.work import (
    TOOL_CALLS_FIELD,
    TOOLS,
    UNMETERED,
    WORK_FIELDS,
    ServerTool,
    read_work,
    server_tools,
)
from gateway.dialects.openai_responses.input import INPUT, Input, read_input
from gateway.dialects.structure import StructureBounds, check_value, request_fields
from gateway.dialects.values import FieldTable, checked_model, label, metadata_of, read_values, within

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RESPONSES: Final = "/v1/responses"
COMPACT: Final = "/v1/responses/compact"
INPUT_TOKENS: Final = "/v1/responses/input_tokens"
INSTRUCTIONS: Final = "instructions"
MAX_FIELD: Final = "max_output_tokens"

_EXPECTED: Final = {
    **dict.fromkeys(("model", "user", "safety_identifier", "service_tier", "previous_response_id"), "a string"),
    **dict.fromkeys((MAX_FIELD, TOOL_CALLS_FIELD, "n", "best_of"), "an integer"),
    **dict.fromkeys(("stream", "store", "background"), "a boolean"),
}
_REFUSED: Final[Mapping[str, str]] = {
    "prompt": "A stored prompt can't be metered here: send its text as 'instructions' and 'input'.",
    "multi_agent": "Work of several agents can't be metered here, because nothing bounds it: leave 'multi_agent' out.",
}
_OWN_FIELDS: Final = frozenset({INPUT, INSTRUCTIONS, TOOLS, "conversation", "context_management", *_REFUSED})
METERING_FIELDS: Final = frozenset({*_EXPECTED, *_OWN_FIELDS, *WORK_FIELDS})
_TABLE: Final = FieldTable(
    _EXPECTED,
    METERING_FIELDS,
    METERING_FIELDS
    | {
        "temperature",
        "top_p",
        "top_logprobs",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "include",
        "metadata",
        "truncation",
        "stream_options",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    },
    WORK_FIELDS | {INPUT},
)
_DISABLED: Final = b'"disabled"'
# Fields of `WORK_FIELDS` that are read here in another way.
_ELSEWHERE: Final = frozenset({TOOLS, "conversation", "previous_response_id"})
_CONVERSATION: Final = frozenset({"id"})
# Calls that are granted at most where the context may be compacted before each of them, which is a call of the model
# itself.
CALLS_WITH_COMPACTION: Final = 4
_COMPACTION: Final = "compaction"
_GENERATE: Final = "generate"
_CACHE_OPTIONS: Final = "prompt_cache_options"
_PREWARM: Final = frozenset({"prewarm"})
_TRUE, _FALSE = Raw(b"true"), Raw(b"false")
CHAT_BODY: Final = (
    "Missing required parameter: 'input'. This is a body of /v1/chat/completions (it has 'messages'): send it there, "
    "or set your client to use chat completions."
)


def parse(
    operation: str, body: bytes, bounds: StructureBounds, created: Creation, *, on_socket: bool = False
) -> ParsedRequest:
    """Return what a request for a response, its compaction or its count of tokens asks for; `created` tells of the
    response that is stored, or on a WebSocket can be gone on from. Raises `BadRequest`."""
    fields = request_fields(body, bounds)
    values = read_values(fields, _TABLE, INPUT, bounds)
    for name, message in _REFUSED.items():
        if not is_null(fields.get(name)):
            raise BadRequest(message, name)
    for name in ("n", "best_of"):
        within(values, name, 1, 1)
    if INPUT not in fields and "messages" in fields:  # some clients send both APIs' bodies to one address
        raise BadRequest(CHAT_BODY, INPUT)
    _check_instructions(fields.get(INSTRUCTIONS))
    given = read_input(fields.get(INPUT), bounds)
    stored = _stored(fields, values)
    if values.get("background"):
        _check_background(operation, values)
    work = _work(operation, fields, values, given, bounds)
    previous = values.get("previous_response_id")
    only_previous = previous is not None and not (given.outside or work.outside or given.ids) and len(stored) == 1
    creation = created if operation == RESPONSES and (on_socket or values.get("store") is not False) else None
    named = None
    if stored or given.ids or creation is not None:
        named = Stored(
            (*stored, *given.ids),
            previous if only_previous else None,
            creation,
            background=values.get("background") is True,
            whole=not _shortens(fields),
            tools=given.kinds,
            most_calls=values.get(TOOL_CALLS_FIELD),
        )
    most = within(values, MAX_FIELD, 1, MAX_COUNT)
    prepares = _prepares(fields, on_socket=on_socket)
    # `generate` is a part of the mode for WebSockets: over HTTP a provider may pass over it, and write.
    has_output = operation != INPUT_TOKENS and not (prepares and on_socket)
    if prepares and on_socket:
        work = without_tools(work)
    if operation == COMPACT:
        most = MAX_COUNT
    return ParsedRequest(
        operation=operation,
        model=checked_model(values.get("model")),
        stream=operation == RESPONSES and values.get("stream") is True,
        include_usage=True,
        max_output_tokens=most if has_output else None,
        max_fields=(MAX_FIELD,) if most is not None and has_output and operation == RESPONSES else (),
        input_bound_tokens=len(body) + given.kept_tokens,
        end_user=label(user) if (user := values.get("safety_identifier") or values.get("user")) else None,
        service_tier=label(tier) if (tier := values.get("service_tier")) else None,
        has_output=has_output,
        parts=given.parts,
        unbounded_input=given.outside or bool(given.ids) or bool(stored) or work.outside,
        work=work,
        stored=named,
        metadata=metadata_of(fields["metadata"]) if "metadata" in fields else NO_METADATA,
        prepares=prepares,
    )


def _check_instructions(raw: Raw | None) -> None:
    """Refuse instructions that are no text, as OpenAI does: items could bring tools, pictures and files, uncounted."""
    if raw is not None and not is_null(raw) and first_byte(raw) != ord('"'):
        raise wrong_type(INSTRUCTIONS, "a string")


def _prepares(fields: Mapping[str, Raw], *, on_socket: bool) -> bool:
    """Return whether a request only fills the provider's cache, and has nothing written. Raises `BadRequest` where two
    parsers may disagree about that."""
    if on_socket and fields.get(_GENERATE) == _FALSE:
        return True
    options = fields.get(_CACHE_OPTIONS)
    if options is None or first_byte(options) != ord("{"):
        return False
    return read_object(options, _CACHE_OPTIONS, _PREWARM).get("prewarm") == _TRUE


def _stored(fields: Mapping[str, Raw], values: Mapping[str, Any]) -> list[str]:
    """Return the ids of the response and the conversation that this one goes on from."""
    ids = [values["previous_response_id"]] if values.get("previous_response_id") is not None else []
    raw = field_of(fields, "conversation")
    if raw is None:
        return ids
    if first_byte(raw) == ord("{"):
        raw = read_object(raw, "conversation", _CONVERSATION).get("id", NULL)
    try:
        ids.append(TEXT.decode(raw))
    except msgspec.DecodeError as error:
        raise wrong_type("conversation", "a string or an object with an 'id'") from error
    return ids


def _shortens(fields: Mapping[str, Raw]) -> bool:
    """Return whether the provider may leave out a part of what came before, which later responses may have again."""
    truncation, management = fields.get("truncation"), fields.get("context_management")
    return not is_null(management) or (not is_null(truncation) and bytes(truncation or b"") != _DISABLED)


def _check_background(operation: str, values: Mapping[str, Any]) -> None:
    """Refuse work in the background that could not be polled."""
    if operation != RESPONSES or values.get("store") is False:
        raise BadRequest("Work in the background needs a response that is stored.", "background")


def _work(
    operation: str, fields: Mapping[str, Raw], values: Mapping[str, Any], given: Input, bounds: StructureBounds
) -> Work:
    """Return the work beside one call of the model, `NO_WORK` itself where there is none: its hold is then made the
    short way. A compaction of the context is one more call of it before each."""
    most_calls = within(values, TOOL_CALLS_FIELD, 0, MAX_COUNT)
    management = field_of(fields, "context_management")
    compacts = management is not None
    if not (compacts or given.tools or given.compactions) and WORK_FIELDS.isdisjoint(fields):
        return NO_WORK
    tools = (*server_tools(fields.get(TOOLS), bounds, UNMETERED), *given.tools)
    others = {name: raw for name, raw in fields.items() if name in WORK_FIELDS and name not in _ELSEWHERE}
    work = read_work(others, most_calls, bounds)
    if compacts and management is not None:
        check_value(management, bounds, 1, "context_management")
    if operation != RESPONSES:
        return without_tools(work)  # no tool runs for a compaction or a count
    work = _with_tools(work, tools, most_calls)
    return _with_compactions(work, given.compactions, every_round=compacts)


def _with_tools(work: Work, tools: Sequence[ServerTool], most_calls: int | None) -> Work:
    """Return the work with that of tools; `most_calls` is the request's `max_tool_calls`, which counts all of them
    together."""
    if not tools:
        return work
    kinds = _kinds(tools)
    unknown = tuple(tool.kind for tool in tools if not tool.known)
    searching = sum(tool.searches for tool in tools)
    if most_calls is None:
        return msgspec.structs.replace(
            work,
            open_tools=(*work.open_tools, *kinds),
            unknown_tools=(*work.unknown_tools, *unknown),
            open_searches=work.open_searches + searching,
        )
    uses = max(1, most_calls)
    return msgspec.structs.replace(
        work,
        uses=work.uses + uses,
        searches=work.searches + (uses if searching else 0),
        unknown_tools=(*work.unknown_tools, *unknown),
        bounded_tools=() if work.uses else kinds,
    )


def _with_compactions(work: Work, asked: int, *, every_round: bool) -> Work:
    """Return the work with compactions of the context: one that was `asked` for, and one before each round where the
    provider decides."""
    more, most_calls = asked, work.most_calls
    if every_round:
        most_calls = CALLS_WITH_COMPACTION if work.open_tools else None
        more += work.uses + (most_calls or 0) + 1
    if not more:
        return work
    bounded = (*work.bounded_tools, _COMPACTION) if work.bounded_tools or not work.uses else ()
    return msgspec.structs.replace(work, uses=work.uses + more, bounded_tools=bounded, most_calls=most_calls)


def without_tools(work: Work) -> Work:
    """Return work of which no tool is a part."""
    work = msgspec.structs.replace(
        work,
        uses=0,
        searches=0,
        open_tools=(),
        unknown_tools=(),
        open_searches=0,
        bounded_tools=(),
        most_calls=None,
    )
    return NO_WORK if work == NO_WORK else work


def _kinds(tools: Sequence[ServerTool]) -> tuple[str, ...]:
    return tuple(tool.kind for tool in tools)
