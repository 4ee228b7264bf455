"""The Responses API, the request: what it asks for at most, and which tools run at the provider.

Source: https://platform.openai.com/docs/api-reference/responses/create. Bodies are refused by the same rules as those
of chats (`gateway.dialects.openai.dialect`). What would have the provider choose the model, the tools or the text by
itself (`prompt`, `multi_agent`) is refused, because nothing here bounds it; so is a tool that is not listed, because
nobody knows what it costs. Each use of a tool that runs at the provider may call the model again with its whole
context, so that `max_tool_calls` must bound them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_METADATA, NO_PARTS, NO_WORK, Creation, ParsedRequest, Stored, Work
from gateway.dialects.fields import first_byte, is_null, read_object, top_level, wrong_type
from gateway.dialects.openai.values import FIELD_LEVEL, FieldTable, metadata_of, read_values, within
from gateway.dialects.openai.work import WORK_FIELDS, read_work
from gateway.dialects.openai_responses.input import INPUT, read_input
from gateway.dialects.structure import StructureBounds, check_size, check_value, read_tool_objects, too_many
from gateway.dialects.values import checked_model, label

RESPONSES: Final = "/v1/responses"
COMPACT: Final = "/v1/responses/compact"
INPUT_TOKENS: Final = "/v1/responses/input_tokens"
MAX_FIELD: Final = "max_output_tokens"

_EXPECTED: Final = {
    **dict.fromkeys(("model", "user", "safety_identifier", "service_tier", "previous_response_id"), "a string"),
    **dict.fromkeys((MAX_FIELD, "max_tool_calls", "n", "best_of"), "an integer"),
    **dict.fromkeys(("stream", "store", "background"), "a boolean"),
}
_REFUSED: Final[Mapping[str, str]] = {
    "prompt": "A stored prompt can't be metered here: send its text as 'instructions' and 'input'.",
    "multi_agent": "Work of several agents can't be metered here, because nothing bounds it: leave 'multi_agent' out.",
}
_OWN_FIELDS: Final = frozenset({INPUT, "instructions", "tools", "conversation", "context_management", *_REFUSED})
METERING_FIELDS: Final = frozenset({*_EXPECTED, *_OWN_FIELDS, *WORK_FIELDS})
_TABLE: Final = FieldTable(
    _EXPECTED,
    METERING_FIELDS,
    METERING_FIELDS
    | {
        *("temperature", "top_p", "top_logprobs", "tool_choice", "parallel_tool_calls", "text", "include", "metadata"),
        *("truncation", "stream_options", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    },
    WORK_FIELDS | {INPUT},
)
_DISABLED: Final = b'"disabled"'
_ELSEWHERE: Final = frozenset({"tools", "conversation", "previous_response_id"})
"""Fields of `WORK_FIELDS` that are read here in another way."""
_CONVERSATION: Final = frozenset({"id"})
_STRING: Final = msgspec.json.Decoder(str)
CLIENT_TOOLS: Final = frozenset(
    {"function", "custom", "local_shell", "apply_patch", "computer", "computer_use_preview"}
)
"""Tools that the client runs: they cost their tokens alone."""
WEB_SEARCH: Final = re.compile(r"web_search(?:_preview)?(?:_\d{4}_\d\d_\d\d)?", re.ASCII)
MCP: Final = "mcp"
SHELL: Final = "shell"
_MAX_TYPE_CHARS: Final = 100
_TOOL: Final = frozenset({"type", "environment", "container", "vector_store_ids"})
_ENVIRONMENT: Final = frozenset({"type"})


def parse(operation: str, body: bytes, bounds: StructureBounds, created: Creation) -> ParsedRequest:
    """Return what a request for a response, its compaction or its count of tokens asks for; `created` tells of the
    response that is stored. Raises `BadRequest`."""
    if len(body) > bounds.small_bytes:
        check_size(body, bounds)
    fields = top_level(body, bounds.fields)
    if fields is None:
        raise too_many("fields", bounds.fields)
    values = read_values(fields, _TABLE, INPUT, bounds)
    for name, message in _REFUSED.items():
        if not is_null(fields.get(name)):
            raise BadRequest(message, name)
    for name in ("n", "best_of"):
        within(values, name, 1, 1)
    given = fields.get(INPUT)
    parts, outside, ids = (NO_PARTS, False, []) if given is None or is_null(given) else read_input(given, bounds)
    stored = _stored(fields, values)
    if values.get("background"):
        _check_background(operation, values)
    work = _work(fields, values, bounds)
    previous = values.get("previous_response_id")
    only_previous = previous is not None and not (outside or work.outside or ids) and len(stored) == 1
    creation = created if operation == RESPONSES and values.get("store") is not False else None
    named = None
    if stored or ids or creation is not None:
        names = (*stored, *ids)
        background = values.get("background") is True
        previous = previous if only_previous else None
        named = Stored(names, previous, creation, background=background, whole=not _shortens(fields))
    most = within(values, MAX_FIELD, 1, MAX_COUNT)
    has_output = operation != INPUT_TOKENS
    if operation == COMPACT:
        most = MAX_COUNT
    return ParsedRequest(
        operation=operation,
        model=checked_model(values.get("model")),
        stream=operation == RESPONSES and values.get("stream") is True,
        include_usage=True,
        choices=1,
        max_output_tokens=most if has_output else None,
        max_fields=(MAX_FIELD,) if most is not None and operation == RESPONSES else (),
        input_bound_tokens=len(body),
        end_user=label(user) if (user := values.get("safety_identifier") or values.get("user")) else None,
        service_tier=label(tier) if (tier := values.get("service_tier")) else None,
        has_output=has_output,
        parts=parts,
        unbounded_input=outside or bool(ids) or bool(stored) or work.outside,
        work=work,
        stored=named,
        metadata=metadata_of(fields["metadata"]) if "metadata" in fields else NO_METADATA,
    )


def _stored(fields: Mapping[str, Raw], values: Mapping[str, Any]) -> list[str]:
    """Return the ids of the response and the conversation that this one goes on from."""
    ids = [values["previous_response_id"]] if values.get("previous_response_id") is not None else []
    raw = fields.get("conversation")
    if raw is None or is_null(raw):
        return ids
    if first_byte(raw) == ord("{"):
        raw = read_object(raw, "conversation", _CONVERSATION).get("id", Raw(b"null"))
    try:
        ids.append(_STRING.decode(raw))
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


def _work(fields: Mapping[str, Raw], values: Mapping[str, Any], bounds: StructureBounds) -> Work:
    """Return the work beside one call of the model, `NO_WORK` itself where there is none: its hold is then made the
    short way. A compaction of the context is one more call of it before each."""
    most_calls = within(values, "max_tool_calls", 0, MAX_COUNT)
    management = fields.get("context_management")
    if management is None and WORK_FIELDS.isdisjoint(fields):
        return NO_WORK
    uses, searches = read_tools(fields.get("tools"), most_calls, bounds)
    others = {name: raw for name, raw in fields.items() if name in WORK_FIELDS and name not in _ELSEWHERE}
    work = read_work(others, most_calls, bounds)
    uses += work.uses
    if management is not None and not is_null(management):
        check_value(management, bounds, 1, "context_management")
        uses = 2 * uses + 1
    if not uses:  # so no searches either
        return work
    return msgspec.structs.replace(work, outside=True, uses=uses, searches=work.searches + searches)


def read_tools(raw: Raw | None, most_calls: int | None, bounds: StructureBounds) -> tuple[int, int]:
    """Return the uses of tools that may run at the provider, and the searches among them; `most_calls` is the request's
    `max_tool_calls`, which counts all of them together. Raises `BadRequest`."""
    if raw is None or is_null(raw):
        return 0, 0
    check_value(raw, bounds, FIELD_LEVEL, "tools")
    tools = read_tool_objects(raw, _TOOL, bounds)
    uses = searches = 0
    for index, tool in enumerate(tools):
        param = f"tools[{index}]"
        if is_null(tool.get("type")):
            raise BadRequest(f"Missing required parameter: '{param}.type'.", param)
        kind = _string(tool["type"], f"{param}.type")
        if kind in CLIENT_TOOLS or (kind == SHELL and _is_local(tool.get("environment"), param)):
            continue
        searching = WEB_SEARCH.fullmatch(kind) is not None
        if not searching and kind != MCP:
            shown = kind[:_MAX_TYPE_CHARS]
            raise BadRequest(f"The tool of type '{shown}' can't be metered here: leave it out.", param)
        if most_calls is None:
            raise BadRequest(
                f"The tool of type '{kind}' runs at the provider, and nothing bounds how often: set 'max_tool_calls'.",
                "max_tool_calls",
            )
        uses = max(1, most_calls)
        searches = uses if searching else searches
    return uses, searches


def _is_local(raw: Raw | None, param: str) -> bool:
    """Return whether the client runs the commands of a shell."""
    if raw is None or is_null(raw):
        return False
    kind = read_object(raw, f"{param}.environment", _ENVIRONMENT).get("type")
    return kind is not None and not is_null(kind) and _string(kind, f"{param}.environment.type") == "local"


def _string(raw: Raw, param: str) -> str:
    try:
        return _STRING.decode(raw)
    except msgspec.DecodeError as error:
        raise wrong_type(param, "a string") from error
