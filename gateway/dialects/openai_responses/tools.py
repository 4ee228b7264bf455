"""The Responses API, its tools: which of them run at the provider, and what bounds them. This file owns the list.

Source: https://platform.openai.com/docs/api-reference/responses/create (`tools`). A tool that is not listed is refused,
because nobody knows what it costs. Each use of a tool that runs at the provider may call the model again with its whole
context, so that `max_tool_calls` must bound them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.fields import first_byte, is_null, read_object, read_objects, wrong_type
from gateway.dialects.openai.values import FIELD_LEVEL
from gateway.dialects.structure import StructureBounds, check_value, more_items, too_many

if TYPE_CHECKING:
    from msgspec import Raw

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
_STRING: Final = msgspec.json.Decoder(str)


def read_tools(raw: Raw | None, most_calls: int | None, bounds: StructureBounds) -> tuple[int, int]:
    """Return the uses of tools that may run at the provider, and the searches among them; `most_calls` is the request's
    `max_tool_calls`, which counts all of them together. Raises `BadRequest`."""
    if raw is None or is_null(raw):
        return 0, 0
    check_value(raw, bounds, FIELD_LEVEL, "tools")
    if first_byte(raw) != ord("["):
        raise wrong_type("tools", "an array of objects")
    if more_items(raw, bounds.tools):
        raise too_many("tools", bounds.tools, "tools")
    tools = read_objects(raw, "tools", _TOOL)
    if tools is None:
        raise wrong_type("tools", "an array of objects")
    uses = searches = 0
    for place, tool in enumerate(tools):
        param = f"tools[{place}]"
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
    """Whether the client runs the commands of a shell."""
    if raw is None or is_null(raw):
        return False
    kind = read_object(raw, f"{param}.environment", _ENVIRONMENT).get("type")
    return kind is not None and not is_null(kind) and _string(kind, f"{param}.environment.type") == "local"


def _string(raw: Raw, param: str) -> str:
    try:
        return _STRING.decode(raw)
    except msgspec.DecodeError as error:
        raise wrong_type(param, "a string") from error
