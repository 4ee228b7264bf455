"""OpenAI's format, the tools of a request: which of them run at the provider. This file owns that.

What the client runs costs the bytes of its definition, which stand in the body. What runs at the provider calls the
model again with what it found, and may be billed by the call: `max_tool_calls` bounds it, the client's or one that the
gateway grants. A tool of a type that is not known here is taken for one that runs at the provider, so that tools of
tomorrow pass today. Only what is billed in a way that can't be metered is refused.

Tools stand in `tools`, in groups (`namespace`), and in items of a Responses input (`additional_tools`,
`tool_search_output`): all of them are read by `server_tools`.

Sources: https://platform.openai.com/docs/api-reference/responses/create (`tools`), .../docs/guides/tools-tool-search
and .../tools-shell, https://docs.x.ai/docs/guides/tools/overview,
https://openrouter.ai/docs/guides/features/server-tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Raw

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import charged_by_search
from gateway.dialects.fields import first_byte, folded, is_null, read_object, read_objects
from gateway.dialects.structure import StructureBounds, check_value, read_tool_objects
from gateway.dialects.values import short_text

TOOLS: Final = "tools"
TOOL_CALLS_FIELD: Final = "max_tool_calls"
"""Bounds the calls of all tools that run at the provider."""
NAMESPACE: Final = "namespace"
CLIENT_TOOLS: Final = frozenset({"function", "custom", NAMESPACE, "local_shell", "apply_patch"})
"""Tools that the client runs; `namespace` is a group of tools, each of which is read by itself."""
_CLIENT_PREFIX: Final = "computer"
SHELL: Final = "shell"
TOOL_SEARCH: Final = "tool_search"
_KNOWN: Final = re.compile(
    "search|brows|fetch|mcp|connector|urlcontext|codeexecution|codeinterpreter|programmatictoolcalling|advisor"
)
"""What names of tools that run at a provider contain, as `folded` has them: OpenAI's, xAI's, Groq's, OpenRouter's and
Google's. Others are unknown."""
IMAGE_GENERATION: Final[Mapping[str, str]] = {
    "imagegeneration": (
        "It draws pictures with another model, whose cost is not in the answer's usage: leave the tool out"
    )
}
_OTHER_MODELS: Final = (
    "Other models work for it, whose tokens the answer's usage does not tell apart: leave the tool out, and ask these "
    "models yourself"
)
UNMETERED_IN_CHATS: Final[Mapping[str, str]] = {
    **IMAGE_GENERATION,
    **dict.fromkeys(("openrouter:advisor", "openrouter:subagent", "openrouter:fusion"), _OTHER_MODELS),
}
UNMETERED: Final[Mapping[str, str]] = {
    **UNMETERED_IN_CHATS,
    "codeinterpreter": (
        "It runs code in a container that the provider bills by the session: leave the tool out, or run code yourself "
        "in a 'function', or in a 'shell' with the environment {\"type\": \"local\"}"
    ),
    "filesearch": (
        "It reads vector stores, which the provider bills by the call and by the day: leave the tool out, and send "
        "what it would find in the request"
    ),
}
"""What a request is told whose tool is billed in a way that can't be metered, by what the tool's type contains, as
`folded` has it. In chats only `UNMETERED_IN_CHATS` is: there the other names are those of servers (Groq, vLLM) that
bill tokens alone."""
_HOSTED_SHELL: Final = (
    "Commands would run in a container that the provider bills by the session: run them yourself, with the environment "
    '{"type": "local"}'
)
_TOOL: Final = frozenset({"type", "function", "custom", "max_uses", "model", "environment", "execution", TOOLS})
_FUNCTION_FIELDS: Final = frozenset({"type", "function", "custom", "name", "description", "parameters", "strict"})
"""What a tool may have that names no type and yet runs at the client."""
_ENVIRONMENT: Final = frozenset({"type"})
_PLAIN_TYPES: Final = tuple(Raw(b'"%b"' % name.encode()) for name in sorted(CLIENT_TOOLS - {NAMESPACE}))
_LEVEL: Final = 1
_LIST: Final = ord("[")
MAX_TYPE_CHARS: Final = 100
MAX_REMEMBERED: Final = 64
"""Lists of tools that were looked at and run at the client."""
MAX_REMEMBERED_BYTES: Final = 65_536
_TAIL_BYTES: Final = 128
_plain_tools: dict[tuple[bytes, int], tuple[StructureBounds, bytes]] = {}
"""By their last bytes and their length."""


class ServerTool(msgspec.Struct, frozen=True):
    """A tool that runs at the provider. `kind` is its type, or the names of its fields where it has none; `fields` are
    those that are read."""

    kind: str
    param: str
    fields: Mapping[str, Raw]

    @property
    def known(self) -> bool:
        """Return whether tools of this type are known here."""
        return _KNOWN.search(folded(self.kind)) is not None

    @property
    def searches(self) -> bool:
        """Return whether it is charged by the search."""
        return charged_by_search(self.kind)


def server_tools(
    raw: Raw | None, bounds: StructureBounds, unmetered: Mapping[str, str], param: str = TOOLS
) -> list[ServerTool]:
    """Return the tools of a list that run at the provider, those in groups included. `unmetered` is what is refused, as
    `UNMETERED`. Raises `BadRequest`."""
    if raw is None or is_null(raw) or _known_plain(raw, bounds):
        return []
    check_value(raw, bounds, _LEVEL, param)
    found = list(_read(raw, bounds, unmetered, param))
    if not found:
        _remember_plain(raw, bounds)
    return found


def _read(raw: Raw, bounds: StructureBounds, unmetered: Mapping[str, str], param: str) -> Iterator[ServerTool]:
    for index, tool in enumerate(read_tool_objects(raw, _TOOL, bounds, param)):
        raw_kind = tool.get("type")
        if raw_kind in _PLAIN_TYPES or (raw_kind is None and tool.keys() <= _FUNCTION_FIELDS):
            continue
        here = f"{param}[{index}]"
        kind = "" if is_null(raw_kind) else short_text(raw_kind, f"{here}.type")[:MAX_TYPE_CHARS]
        nested = tool.get(TOOLS)
        if nested is not None and not is_null(nested) and (kind == NAMESPACE or has_objects(nested, here)):
            yield from _read(nested, bounds, unmetered, f"{here}.{TOOLS}")
        if not _runs_at_client(kind, tool, here):
            kind = kind or " ".join(tool)[:MAX_TYPE_CHARS]  # Google's are named by their field
            _check_metered(kind, unmetered, here)
            yield ServerTool(kind, here, {name: tool[name] for name in ("max_uses", "model") if name in tool})


def has_objects(raw: Raw, param: str) -> bool:
    """Return whether a value that may be anything is a list of objects, such as tools are. Raises `BadRequest` for
    objects whose names are tricks."""
    return first_byte(raw) == _LIST and read_objects(raw, param, frozenset()) is not None


def _runs_at_client(kind: str, tool: Mapping[str, Raw], param: str) -> bool:
    """Return whether the client runs a tool, or it asks for nothing. Raises `BadRequest` for a shell in a container."""
    if kind == SHELL:
        if not _is_local(tool.get("environment"), param):
            raise BadRequest(f"The tool of type '{SHELL}' can't be metered here. {_HOSTED_SHELL}.", param)
        return True
    if kind == TOOL_SEARCH:
        execution = tool.get("execution")
        return not is_null(execution) and short_text(execution, f"{param}.execution") == "client"
    if not kind:
        return tool.keys() <= _FUNCTION_FIELDS
    return kind in CLIENT_TOOLS or kind.startswith(_CLIENT_PREFIX)


def _is_local(raw: Raw | None, param: str) -> bool:
    """Return whether the client runs the commands of a shell: it does where no environment is named."""
    if raw is None or is_null(raw):
        return True
    kind = read_object(raw, f"{param}.environment", _ENVIRONMENT).get("type")
    return kind is not None and not is_null(kind) and short_text(kind, f"{param}.environment.type") == "local"


def _check_metered(kind: str, unmetered: Mapping[str, str], param: str) -> None:
    name = folded(kind)
    for part, what_to_do in unmetered.items():
        if part in name:
            raise BadRequest(f"The tool of type '{kind}' can't be metered here. {what_to_do}.", param)


def _known_plain(raw: Raw, bounds: StructureBounds) -> bool:
    """Return whether these very tools were looked at before, and all run at the client: agents send theirs with each
    request, and to compare them takes a hundredth of the time."""
    text = bytes(raw)
    found = _plain_tools.get((text[-_TAIL_BYTES:], len(text)))
    return found is not None and found[0] is bounds and found[1] == text


def _remember_plain(raw: Raw, bounds: StructureBounds) -> None:
    if len(raw) <= MAX_REMEMBERED_BYTES:
        if len(_plain_tools) >= MAX_REMEMBERED:
            _plain_tools.clear()
        text = bytes(raw)
        _plain_tools[text[-_TAIL_BYTES:], len(text)] = bounds, text
