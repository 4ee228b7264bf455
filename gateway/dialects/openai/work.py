"""OpenAI's format, the work that a provider does beside one call of the model named. This file owns what bounds it.

Four kinds of fields ask for it, of OpenAI's own and of providers that speak its format:

- Input that the provider keeps (an earlier answer, a cache, a file store) is bounded by the context window.
- Tools that run at the provider (every tool whose type is not `function` or `custom`, searches, plugins) call the model
  again with what they found: (uses + 1) times the context window. The uses are the request's own `max_uses` of each
  tool, or `max_tool_calls` of all; where it names none, it is refused, because nothing bounds them.
- What the client predicts of an answer (`prediction`): a token of it that is wrong is billed as output beside it.
- Names of other models (`models`, `fallbacks`): any of them may answer, so that all need a price. What leaves the
  choice to the provider (`preset`, `route` alone) is refused.

Sources: https://platform.openai.com/docs/api-reference/chat/create, https://openrouter.ai/docs/features/web-search and
.../model-routing, https://docs.x.ai/docs/guides/live-search, https://learn.microsoft.com/azure/ai-foundry/openai/
references/on-your-data.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_WORK, Work
from gateway.dialects.fields import first_byte, is_null, read_object, read_objects, wrong_type
from gateway.dialects.structure import StructureBounds, check_value, read_tool_objects, too_many
from gateway.dialects.values import MAX_NAME_CHARS, PRESET, short_text, texts, whole

STORED_FIELDS: Final = frozenset(
    {
        *("previous_response_id", "conversation", "conversation_id", "cached_content", "thread", "thread_id"),
        *("assistant_id", "container", "file_ids", "vector_store_ids", "tool_resources", "attachments", "extra_body"),
        "chat_template",
    }
)
"""Each names input that is not in the body, or, as vLLM's template, makes more input of it than it has bytes."""
ROUND_FIELDS: Final = {"web_search_options": 1, "enable_search": 1, "data_sources": 0}
"""One round of retrieval before the answer, and how many searches are charged for it: OpenAI's search models, Qwen's
search, Azure's data sources."""
UNBOUNDED_FIELDS: Final = frozenset(
    {"mcp_servers", "connectors", "compound_custom", "agent", "agent_id", "agents", "multi_agent"}
)
"""Work that only `max_tool_calls` bounds."""
CHOICE_FIELDS: Final = frozenset({"models", "fallbacks", "route", "preset", "moderation"})
_PLUGIN_RESULTS: Final = 5
"""What OpenRouter's `web` plugin and its model suffix `:online` bring where the request names no number."""
_FREE_PLUGINS: Final = frozenset({"file-parser", "response-healing"})
"""OpenRouter's plugins that call no model: what a file becomes is bounded as a file is."""
_FREE_ENGINES: Final = frozenset({"pdf-text", "cloudflare-ai", "native"})
"""What reads a file for `file-parser` and is not billed by the page
(https://openrouter.ai/docs/features/multimodal/pdfs)."""
_PLAIN_TOOLS: Final = frozenset({"function", "custom"})
_PLAIN_TYPES: Final = tuple(Raw(b'"%b"' % name.encode()) for name in sorted(_PLAIN_TOOLS))
_SEARCHING: Final = ("search", "brows")
"""A tool whose type contains this is charged by the search."""
MAX_MODELS: Final = 16
"""Other models that one request may name."""
MAX_REMEMBERED: Final = 64
"""Lists of tools that were looked at and run at the client."""
MAX_REMEMBERED_BYTES: Final = 65_536
_TAIL_BYTES: Final = 128
_plain_tools: dict[tuple[bytes, int], tuple[StructureBounds, bytes]] = {}
"""By their last bytes and their length."""

WORK_FIELDS: Final = frozenset(
    {
        *(*STORED_FIELDS, *ROUND_FIELDS, *UNBOUNDED_FIELDS, *CHOICE_FIELDS),
        *("tools", "plugins", "search_parameters", "modalities", "reasoning", "thinking", "audio", "prediction"),
    }
)
OBJECT_FIELDS: Final = frozenset({"reasoning", "thinking", "audio", "prediction"})
"""Objects whose names must not be tricks, and that ask for no work by themselves."""
_FUNCTION_FIELDS: Final = frozenset({"type", "function", "custom", "name", "description", "parameters", "strict"})
"""What a tool may have that names no type and yet runs at the client."""
_TOOL: Final = frozenset({"type", "function", "custom", "max_uses", "model"})
_PLUGIN: Final = frozenset({"id", "max_results", "max_uses", "enabled", "pdf"})
_PDF: Final = frozenset({"engine"})
_SEARCH: Final = frozenset({"mode", "max_search_results", "sources"})
_MODEL: Final = frozenset({"model"})
_FIELD_LEVEL: Final = 1


def read_work(fields: Mapping[str, Raw], most_calls: int | None, bounds: StructureBounds) -> Work:
    """Return the work that the fields of a request ask for, `NO_WORK` itself where that is none; `most_calls` is its
    `max_tool_calls`. Raises `BadRequest`."""
    given = {name: raw for name, raw in fields.items() if name in WORK_FIELDS and not _is_off(raw)}
    if not given:
        return NO_WORK
    tools = given.pop("tools", None)
    if tools is not None and _known_plain(tools, bounds):
        tools = None
    if tools is None and not given:
        return NO_WORK
    for name, raw in given.items():
        check_value(raw, bounds, _FIELD_LEVEL, name)
    for name in OBJECT_FIELDS & given.keys():
        if first_byte(given[name]) == ord("{"):
            read_object(given[name], name)
    if most_calls is not None:
        most_calls = max(1, most_calls)  # as `_uses`
    tool_uses, tool_searches, tool_models = _tools(tools, most_calls, bounds)
    uses, searches = _rounds(given)
    plugin_uses, plugin_searches = _plugins(given.get("plugins"))
    source_uses = _sources(given.get("search_parameters"))
    for name in sorted(UNBOUNDED_FIELDS & given.keys()):
        if most_calls is None:
            raise _unbounded(f"'{name}'", name, "'max_tool_calls'")
        tool_uses = most_calls
    _check_extra(given.get("extra_body"))
    uses += tool_uses + plugin_uses + source_uses
    work = Work(
        outside=uses > 0 or not STORED_FIELDS.isdisjoint(given) or "plugins" in given,
        uses=uses,
        searches=searches + tool_searches + plugin_searches + source_uses,
        one_search="web_search_options" in given,
        models=tuple(dict.fromkeys((*tool_models, *_models(given)))),
        audio="modalities" in given and "audio" in texts(given["modalities"], "modalities"),
        predicted=len(given["prediction"]) if "prediction" in given else 0,
    )
    return NO_WORK if work == NO_WORK else work


def _is_off(raw: Raw) -> bool:
    """Return whether a field is as if it were not given: null, false, or an empty list."""
    return len(raw) <= len(b"false") and bytes(raw) in (b"null", b"false", b"[]")


def _unbounded(what: str, param: str, names: str) -> BadRequest:
    return BadRequest(f"{what} runs at the provider, and nothing bounds how often: set {names}.", param)


def _tools(raw: Raw | None, most_calls: int | None, bounds: StructureBounds) -> tuple[int, int, list[str]]:
    """Return uses and searches of the tools that run at the provider, and the models that they name."""
    if raw is None:
        return 0, 0, []
    check_value(raw, bounds, _FIELD_LEVEL, "tools")
    tools = read_tool_objects(raw, _TOOL, bounds)
    uses = searches = served = 0
    models = []
    for index, tool in enumerate(tools):
        kind = tool.get("type")
        if kind in _PLAIN_TYPES or (is_null(kind) and tool.keys() <= _FUNCTION_FIELDS):
            continue
        served += 1
        param = f"tools[{index}]"
        name = "" if kind is None else short_text(kind, f"{param}.type")
        if name in _PLAIN_TOOLS:  # written with escapes
            continue
        own = None if is_null(tool.get("max_uses")) else _uses(tool["max_uses"], f"{param}.max_uses")
        if own is None and most_calls is None:
            raise _unbounded(f"The tool of type '{name}'", param, "its 'max_uses', or 'max_tool_calls'")
        times = min(bound for bound in (own, most_calls) if bound is not None)
        uses += times
        tool_name = name or " ".join(tool)  # Google's are named by their field
        searches += times if any(part in tool_name for part in _SEARCHING) else 0
        if not is_null(tool.get("model")):
            models.append(short_text(tool["model"], f"{param}.model"))
    if not served:
        _remember_plain(raw, bounds)
    if most_calls is not None:
        uses, searches = min(uses, most_calls), min(searches, most_calls)
    return uses, searches, models


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


def _rounds(given: Mapping[str, Raw]) -> tuple[int, int]:
    uses = searches = 0
    for name, searched in ROUND_FIELDS.items():
        if name in given:
            uses += 1
            searches += searched
    return uses, searches


def _plugins(raw: Raw | None) -> tuple[int, int]:
    """Return uses and searches of OpenRouter's plugins: of `web` as many as it brings results."""
    if raw is None:
        return 0, 0
    plugins = read_objects(raw, "plugins", _PLUGIN)
    if plugins is None:
        raise wrong_type("plugins", "an array of objects")
    uses = 0
    for index, plugin in enumerate(plugins):
        param = f"plugins[{index}]"
        name = "" if is_null(plugin.get("id")) else short_text(plugin["id"], f"{param}.id")
        if name in _FREE_PLUGINS:
            if not is_null(plugin.get("pdf")):
                _check_engine(plugin["pdf"], f"{param}.pdf")
            continue
        if name != "web":
            raise BadRequest(f"The plugin '{name[:MAX_NAME_CHARS]}' can't be metered here: leave it out.", param)
        results = plugin.get("max_results")
        uses += _PLUGIN_RESULTS if results is None or is_null(results) else _uses(results, f"{param}.max_results")
    return uses, uses


def _check_engine(raw: Raw, param: str) -> None:
    engine = read_object(raw, param, _PDF).get("engine")
    if engine is not None and not is_null(engine) and short_text(engine, f"{param}.engine") not in _FREE_ENGINES:
        raise BadRequest(
            f"This engine bills pages, which have no price here: use {', '.join(sorted(_FREE_ENGINES))}.", param
        )


def _sources(raw: Raw | None) -> int:
    """Return the sources that xAI's search may read, each of which it bills."""
    if raw is None:
        return 0
    param = "search_parameters"
    fields = read_object(raw, param, _SEARCH)
    mode = fields.get("mode")
    if mode is not None and not is_null(mode) and short_text(mode, f"{param}.mode") == "off":
        return 0
    most = fields.get("max_search_results")
    if most is None or is_null(most):
        raise _unbounded("The search of 'search_parameters'", param, "its 'max_search_results'")
    return _uses(most, f"{param}.max_search_results")


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
        model = read_object(given["moderation"], "moderation", _MODEL).get("model")
        if model is not None and not is_null(model):
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
