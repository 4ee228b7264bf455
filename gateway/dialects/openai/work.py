"""OpenAI's format, the work that a provider does beside one call of the model named. This file owns what bounds it.

Four kinds of fields ask for it, of OpenAI's own and of providers that speak its format:

- Input that the provider keeps (an earlier answer, a cache, a file store) is bounded by the context window.
- Tools that run at the provider (searches and plugins among them) call the model again with what they found. The uses
  are the request's own `max_uses` of each tool, or `max_tool_calls` of all; where it names none, the tool is left open,
  and the gateway grants a number of calls. Work that no such number bounds is refused.
- What the client predicts of an answer (`prediction`): a token of it that is wrong is billed as output beside it.
- Names of other models (`models`, `fallbacks`): any of them may answer, so that all need a price. What leaves the
  choice to the provider (`preset`, `route` alone) is refused.

Sources: https://platform.openai.com/docs/api-reference/chat/create, https://openrouter.ai/docs/features/web-search and
.../model-routing, https://docs.x.ai/docs/guides/live-search, https://learn.microsoft.com/azure/ai-foundry/openai/
references/on-your-data.

Which tools run at the provider is decided here, too. What the client runs costs the bytes of its definition, which
stand in the body. What runs at the provider calls the model again with what it found, and may be billed by the call:
`max_tool_calls` bounds it, the client's or one that the gateway grants. A tool of a type that is not known here is
taken for one that runs at the provider, so that tools of tomorrow pass today. Only what is billed in a way that can't
be metered is refused.

Tools stand in `tools`, in groups (`namespace`), and in items of a Responses input (`additional_tools`,
`tool_search_output`): all of them are read by `server_tools`.

Sources: https://platform.openai.com/docs/api-reference/responses/create (`tools`), .../docs/guides/tools-tool-search
and .../tools-shell, https://docs.x.ai/docs/guides/tools/overview,
https://openrouter.ai/docs/guides/features/server-tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.body import (
    MAX_NAME_CHARS,
    PRESET,
    BadRequest,
    StructureBounds,
    check_value,
    field_of,
    first_byte,
    folded,
    is_null,
    objects_of,
    read_object,
    read_objects,
    read_tool_objects,
    short_text,
    texts,
    too_many,
    whole,
    wrong_type,
)
from gateway.dialects.facts import NO_WORK, Work, charged_by_search

TOOLS: Final = "tools"
# Bounds the calls of all tools that run at the provider.
TOOL_CALLS_FIELD: Final = "max_tool_calls"
NAMESPACE: Final = "namespace"
# Tools that the client runs; `namespace` is a group of tools, each of which is read by itself.
CLIENT_TOOLS: Final = frozenset({"function", "custom", NAMESPACE, "local_shell", "apply_patch"})
_CLIENT_PREFIX: Final = "computer"
SHELL: Final = "shell"
TOOL_SEARCH: Final = "tool_search"
# What names of tools that run at a provider contain, as `folded` has them: OpenAI's, xAI's, Groq's, OpenRouter's and
# Google's. Others are unknown.
_KNOWN: Final = re.compile(
    "search|brows|fetch|mcp|connector|urlcontext|codeexecution|codeinterpreter|programmatictoolcalling|advisor"
)
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
# What a request is told whose tool is billed in a way that can't be metered, by what the tool's type contains, as
# `folded` has it. In chats only `UNMETERED_IN_CHATS` is: there the other names are those of servers (Groq, vLLM) that
# bill tokens alone.
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
_HOSTED_SHELL: Final = (
    "Commands would run in a container that the provider bills by the session: run them yourself, with the environment "
    '{"type": "local"}'
)
_TOOL: Final = frozenset({"type", "function", "custom", "max_uses", "model", "environment", "execution", TOOLS})
# What a tool may have that names no type and yet runs at the client.
_FUNCTION_FIELDS: Final = frozenset({"type", "function", "custom", "name", "description", "parameters", "strict"})
_ENVIRONMENT: Final = frozenset({"type"})
_PLAIN_TYPES: Final = tuple(Raw(b'"%b"' % name.encode()) for name in sorted(CLIENT_TOOLS - {NAMESPACE}))
_LEVEL: Final = 1
_LIST: Final = ord("[")
MAX_TYPE_CHARS: Final = 100
# Lists of tools that were looked at and run at the client.
MAX_REMEMBERED: Final = 64
MAX_REMEMBERED_BYTES: Final = 65_536
_TAIL_BYTES: Final = 128
# By their last bytes and their length.
_plain_tools: dict[tuple[bytes, int], tuple[StructureBounds, bytes]] = {}


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
        nested = field_of(tool, TOOLS)
        if nested is not None and (kind == NAMESPACE or has_objects(nested, here)):
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
    kind = field_of(read_object(raw, f"{param}.environment", _ENVIRONMENT), "type")
    return kind is not None and short_text(kind, f"{param}.environment.type") == "local"


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


# Each names input that is not in the body, or, as vLLM's template, makes more input of it than it has bytes.
STORED_FIELDS: Final = frozenset(
    {
        "previous_response_id",
        "conversation",
        "conversation_id",
        "cached_content",
        "thread",
        "thread_id",
        "assistant_id",
        "container",
        "file_ids",
        "vector_store_ids",
        "tool_resources",
        "attachments",
        "extra_body",
        "chat_template",
    }
)
# One round of retrieval before the answer, and how many searches are charged for it: OpenAI's search models, Qwen's
# search, Azure's data sources.
ROUND_FIELDS: Final = {"web_search_options": 1, "enable_search": 1, "data_sources": 0}
# Tools beside those in `tools`, which only `max_tool_calls` bounds.
TOOL_FIELDS: Final = frozenset({"mcp_servers", "connectors", "compound_custom", "agent", "agent_id"})
# Several agents that work at the same time: a request that bounds their calls itself passes. No number is granted,
# because each of them may begin others.
AGENT_FIELDS: Final = frozenset({"agents", "multi_agent"})
SEARCH_PARAMETERS: Final = "search_parameters"
MAX_SOURCES: Final = "max_search_results"
# OpenRouter's, with which it passes over `max_tool_calls`.
STOP_FIELD: Final = "stop_server_tools_when"
# How the types of tools begin that have a `max_uses` in their `parameters`, and pass over any beside them.
_PARAMETERS_PREFIX: Final = "openrouter:"
CHOICE_FIELDS: Final = frozenset({"models", "fallbacks", "route", "preset", "moderation"})
# What OpenRouter's `web` plugin and its model suffix `:online` bring where the request names no number.
_PLUGIN_RESULTS: Final = 5
# OpenRouter's plugins that call no model: what a file becomes is bounded as a file is.
_FREE_PLUGINS: Final = frozenset({"file-parser", "response-healing"})
# What reads a file for `file-parser` and is not billed by the page
# (https://openrouter.ai/docs/features/multimodal/pdfs).
_FREE_ENGINES: Final = frozenset({"pdf-text", "cloudflare-ai", "native"})
# Other models that one request may name.
MAX_MODELS: Final = 16

WORK_FIELDS: Final = frozenset(
    {
        *STORED_FIELDS,
        *ROUND_FIELDS,
        *TOOL_FIELDS,
        *AGENT_FIELDS,
        *CHOICE_FIELDS,
        "tools",
        STOP_FIELD,
        "plugins",
        SEARCH_PARAMETERS,
        "modalities",
        "reasoning",
        "thinking",
        "audio",
        "prediction",
    }
)
# Objects whose names must not be tricks, and that ask for no work by themselves.
OBJECT_FIELDS: Final = frozenset({"reasoning", "thinking", "audio", "prediction"})
_PLUGIN: Final = frozenset({"id", "max_results", "max_uses", "enabled", "pdf"})
_PDF: Final = frozenset({"engine"})
_SEARCH: Final = frozenset({"mode", MAX_SOURCES, "sources"})
_MODEL: Final = frozenset({"model"})
_FIELD_LEVEL: Final = 1


def read_work(fields: Mapping[str, Raw], most_calls: int | None, bounds: StructureBounds) -> Work:
    """Return the work that the fields of a request ask for, `NO_WORK` itself where that is none; `most_calls` is its
    `max_tool_calls`. Raises `BadRequest`."""
    given = {name: raw for name, raw in fields.items() if name in WORK_FIELDS and not _is_off(raw)}
    if not given:
        return NO_WORK
    tools = server_tools(given.pop("tools", None), bounds, UNMETERED_IN_CHATS)
    if not tools and not given:
        return NO_WORK
    for name, raw in given.items():
        check_value(raw, bounds, _FIELD_LEVEL, name)
    if STOP_FIELD in given:
        raise BadRequest(
            f"'{STOP_FIELD}' has the provider pass over 'max_tool_calls', which bounds its tools: set that instead.",
            STOP_FIELD,
        )
    for name in OBJECT_FIELDS & given.keys():
        if first_byte(given[name]) == ord("{"):
            read_object(given[name], name)
    asked = _Asked(None if most_calls is None else max(1, most_calls))  # as `_uses`
    for tool in tools:
        asked.add(tool.kind, _own_uses(tool), searches=tool.searches, known=tool.known)
    for name in sorted(TOOL_FIELDS & given.keys()):
        asked.add(name, None)
    if agents := sorted(AGENT_FIELDS & given.keys()):
        if most_calls is None:
            raise BadRequest(
                f"'{agents[0]}' has several agents work at the provider, and nothing bounds how often: set "
                "'max_tool_calls'.",
                agents[0],
            )
        asked.add(agents[0], None)
    _check_extra(given.get("extra_body"))
    uses, searches = _rounds(given)
    plugin_uses, reads_files = _plugins(given.get("plugins"))
    sources = _sources(given.get(SEARCH_PARAMETERS), asked)
    models = (*_tool_models(tools), *_models(given))
    return asked.work(
        outside=not STORED_FIELDS.isdisjoint(given) or reads_files,
        uses=uses + plugin_uses + sources,
        searches=searches + plugin_uses + sources,
        one_search="web_search_options" in given,
        models=tuple(dict.fromkeys(models)),
        audio="modalities" in given and "audio" in texts(given["modalities"], "modalities"),
        predicted=len(given["prediction"]) if "prediction" in given else 0,
    )


class _Asked:
    """Adds up the tools of a request, of which `most_calls` may be made together; None: it does not say."""

    def __init__(self, most_calls: int | None) -> None:
        self._most_calls = most_calls
        self._uses = self._searches = self._open_searches = 0
        self._open: list[str] = []
        self._bounded: list[str] = []
        self._unknown: list[str] = []

    def add(self, kind: str, own_uses: int | None, *, searches: bool = False, known: bool = True) -> None:
        """Add a tool that may run `own_uses` times by itself, None where nothing says so."""
        if not known:
            self._unknown.append(kind)
        bounds = [bound for bound in (own_uses, self._most_calls) if bound is not None]
        if bounds:
            self._bounded.append(kind)
            self._uses += min(bounds)
            self._searches += min(bounds) if searches else 0
            return
        self._open.append(kind)
        self._open_searches += searches

    def work(self, *, uses: int, searches: int, **others: Any) -> Work:
        """Return the work of all tools, and of `uses` and `searches` beside them."""
        most = MAX_COUNT if self._most_calls is None else self._most_calls
        work = Work(
            uses=uses + min(self._uses, most),
            searches=searches + min(self._searches, most),
            open_tools=tuple(self._open),
            unknown_tools=tuple(self._unknown),
            open_searches=self._open_searches,
            bounded_tools=tuple(dict.fromkeys(self._bounded)) if not uses else (),
            **others,
        )
        return NO_WORK if work == NO_WORK else work


def _is_off(raw: Raw) -> bool:
    """Return whether a field is as if it were not given: null, false, or an empty list."""
    return len(raw) <= len(b"false") and bytes(raw) in (b"null", b"false", b"[]")


def _own_uses(tool: ServerTool) -> int | None:
    given = field_of(tool.fields, "max_uses")
    return None if given is None or tool.kind.startswith(_PARAMETERS_PREFIX) else _uses(given, f"{tool.param}.max_uses")


def _tool_models(tools: Iterable[ServerTool]) -> Iterator[str]:
    """Yield the models that tools name."""
    for tool in tools:
        model = field_of(tool.fields, "model")
        if model is not None:
            yield short_text(model, f"{tool.param}.model")


def _rounds(given: Mapping[str, Raw]) -> tuple[int, int]:
    uses = searches = 0
    for name, searched in ROUND_FIELDS.items():
        if name in given:
            uses += 1
            searches += searched
    return uses, searches


def _plugins(raw: Raw | None) -> tuple[int, bool]:
    """Return the uses of OpenRouter's plugins, each of them a search: of `web` as many as it brings results; and
    whether one makes input of a file that is not in the body as text."""
    if raw is None:
        return 0, False
    uses, reads_files = 0, False
    for index, plugin in enumerate(objects_of(raw, "plugins", _PLUGIN)):
        param = f"plugins[{index}]"
        name = "" if is_null(plugin.get("id")) else short_text(plugin["id"], f"{param}.id")
        if name in _FREE_PLUGINS:
            reads_files = True
            if not is_null(plugin.get("pdf")):
                _check_engine(plugin["pdf"], f"{param}.pdf")
            continue
        if name != "web":
            raise BadRequest(f"The plugin '{name[:MAX_NAME_CHARS]}' can't be metered here: leave it out.", param)
        results = field_of(plugin, "max_results")
        uses += _PLUGIN_RESULTS if results is None else _uses(results, f"{param}.max_results")
    return uses, reads_files


def _check_engine(raw: Raw, param: str) -> None:
    engine = field_of(read_object(raw, param, _PDF), "engine")
    if engine is not None and short_text(engine, f"{param}.engine") not in _FREE_ENGINES:
        raise BadRequest(
            f"This engine bills pages, which have no price here: use {', '.join(sorted(_FREE_ENGINES))}.", param
        )


def _sources(raw: Raw | None, asked: _Asked) -> int:
    """Return the sources that xAI's search may read, each of which it bills; where the request does not bound them, the
    search is left open."""
    if raw is None:
        return 0
    param = SEARCH_PARAMETERS
    fields = read_object(raw, param, _SEARCH)
    mode = field_of(fields, "mode")
    if mode is not None and short_text(mode, f"{param}.mode") == "off":
        return 0
    most = field_of(fields, MAX_SOURCES)
    if most is None:
        asked.add(param, None, searches=True)
        return 0
    return _uses(most, f"{param}.{MAX_SOURCES}")


def with_bounded_sources(raw: Raw, most: int) -> Any:
    """Return `search_parameters` with so many sources at most, where the request leaves that open."""
    if first_byte(raw) != ord("{"):
        return raw
    fields: dict[str, Any] = dict(read_object(raw, SEARCH_PARAMETERS, _SEARCH))
    if is_null(fields.get(MAX_SOURCES)):
        fields[MAX_SOURCES] = most
    return fields


def _models(given: Mapping[str, Raw]) -> list[str]:
    """Return the other models that may answer."""
    if "preset" in given:
        raise BadRequest("A preset names its models at the provider: write them in 'models'.", "preset")
    if "route" in given and "models" not in given:
        raise BadRequest("A 'route' without 'models' leaves the model to the provider: name them.", "route")
    names: list[str] = []
    for field in ("models", "fallbacks"):
        if field in given:
            names += _named(given[field], field)
    if "moderation" in given and first_byte(given["moderation"]) == ord("{"):
        model = field_of(read_object(given["moderation"], "moderation", _MODEL), "model")
        if model is not None:
            names.append(short_text(model, "moderation.model"))
    for name in names:
        if PRESET in name:
            raise BadRequest("A preset names its model at the provider: name the model itself.", "models")
    if len(names) > MAX_MODELS:
        raise too_many("other models", MAX_MODELS, "models")
    return names


def _named(raw: Raw, field: str) -> list[str]:
    """Return the names in a list of them, or of objects with a `model`."""
    objects = read_objects(raw, field, _MODEL)
    if objects is None:
        return texts(raw, field)
    if any(is_null(each.get("model")) for each in objects):
        raise wrong_type(field, "an array of models' names")
    return [short_text(each["model"], f"{field}.model") for each in objects]


def _check_extra(raw: Raw | None) -> None:
    """Refuse fields in `extra_body` that some servers take for the request's own."""
    if raw is None:
        return
    for name in read_object(raw, "extra_body"):
        if name.casefold() != "google":
            raise BadRequest(f"Write '{name[:MAX_NAME_CHARS]}' of 'extra_body' at the top level.", "extra_body")


def _uses(raw: Raw, param: str) -> int:
    """Return how often something may run at the provider: once at least, because one that does not know the field runs
    it."""
    return max(1, whole(raw, param, 0, MAX_COUNT))
