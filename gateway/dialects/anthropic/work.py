"""Anthropic's format, the work that a provider does beside one call of the model named. This file owns what bounds it.

- Tools that run at the provider call the model again with what they found: (uses + 1) times the context window. A tool
  that is charged or asked again without end says its `max_uses`; of the others one request makes at most `LOOP_TURNS`
  turns (https://docs.anthropic.com/en/api/handling-stop-reasons, `pause_turn`). Tools of a type that is not known here
  are refused.
- An advisor and a compaction are calls of their own, which `max_tokens` does not bound; of fallbacks each is one more
  answer. The models that they name need a price.
- What is kept at the provider behind one key for all accounts (files, containers, threads) is refused, and so are
  fields that leave the choice of a model or of who pays to the provider.
- Features that are still tried out (`anthropic-beta`) may add any of this, so that those pass alone that are known.

Sources: https://docs.anthropic.com/en/api/messages, .../beta-headers, .../agents-and-tools/tool-use/overview.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_WORK, Work
from gateway.dialects.fields import first_byte, is_null, read_object, read_objects, wrong_type
from gateway.dialects.structure import StructureBounds, check_value, read_tool_objects, too_many
from gateway.dialects.values import MAX_NAME_CHARS, short_text, whole

BETA: Final = "anthropic-beta"
BETAS: Final = frozenset(
    {
        *("prompt-caching", "extended-cache-ttl", "cache-diagnosis", "pdfs", "token-counting", "thinking-token-count"),
        *("token-efficient-tools", "fine-grained-tool-streaming", "interleaved-thinking", "dev-full-thinking"),
        *("thinking-display-updates", "effort", "structured-outputs", "task-budgets", "output-128k", "output-300k"),
        *("max-tokens-3-5-sonnet", "model-context-window-exceeded", "context-management", "compact", "claude-code"),
        *("computer-use", "code-execution", "web-search", "web-fetch", "search-results", "advanced-tool-use"),
        *("tool-search-tool", "tool-examples", "mcp-client", "advisor-tool", "server-side-fallback", "fallback-credit"),
        "fast-mode",
    }
)
"""Features that change nothing of what a request costs, or nothing that is not bounded here; without their dates."""
CLIENT_TOOLS: Final = frozenset({"custom", "bash", "text_editor", "computer", "memory"})
CAPPED_TOOLS: Final = frozenset({"web_search", "web_fetch", "advisor"})
"""Tools at the provider of which a request says how often."""
LOOP_TOOLS: Final = frozenset(
    {"code_execution", "tool_search_tool", "tool_search_tool_bm25", "tool_search_tool_regex", "mcp_toolset"}
)
LOOP_TURNS: Final = 10
"""Turns that one request makes with tools at the provider before it pauses."""
REFUSED_FIELDS: Final = frozenset(
    {
        *("billing_policy", "thread", "models", "plugins", "preset", "route", "agent", "agents", "multi_agent"),
        "user_profile_id",
    }
)
"""Anthropic's own, and those with which resellers of its format choose other models or work."""
WORK_FIELDS: Final = REFUSED_FIELDS | {
    *("tools", "mcp_servers", "fallbacks", "container", "context_management", "compaction", "speed"),
}
TOOL_SYSTEM_TOKENS: Final = 1_024
"""More than the prompt that Anthropic puts before a request with tools or with a schema of its answer (346 tokens at
most for tools), and more than what stands for one of its own tools that run at the client (at most 735):
https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/overview#pricing."""
MAX_FALLBACKS: Final = 16
_DATE: Final = re.compile(r"[-_](?:\d{8}|\d{4}-\d{2}-\d{2})\Z", re.ASCII)
_TOOL: Final = frozenset({"type", "name", "max_uses", "max_tokens", "model"})
_FALLBACK: Final = frozenset({"model", "max_tokens", "output_config", "speed", "thinking"})
_EDITS: Final = frozenset({"compact", "clear_tool_uses", "clear_thinking"})
_STANDARD: Final = "standard"
_LEVEL: Final = 1


class Asked(msgspec.Struct, frozen=True):
    """What the fields ask for: `answers` that may be written one after the other, the first one included, each of at
    most `max_output_tokens` where one of them says so; `prompt_tokens` that the provider adds."""

    work: Work = NO_WORK
    answers: int = 1
    max_output_tokens: int = 0
    prompt_tokens: int = 0


NOTHING: Final = Asked()


def check_betas(values: Iterable[str]) -> None:
    """Refuse features that are not known here; `values` are those of all `anthropic-beta` headers. Raises
    `BadRequest`."""
    for value in values:
        for name in value.split(","):
            beta = name.strip()
            if beta and _DATE.sub("", beta) not in BETAS:
                message = f"The beta '{beta[:MAX_NAME_CHARS]}' can't be metered here: leave it out of '{BETA}'."
                raise BadRequest(message, BETA)


def read_work(fields: Mapping[str, Raw], bounds: StructureBounds) -> Asked:
    """Return the work that the fields of a request ask for. Raises `BadRequest`."""
    given = {name: raw for name, raw in fields.items() if name in WORK_FIELDS and not is_null(raw)}
    if not given:
        return NOTHING
    for name in sorted(REFUSED_FIELDS & given.keys()):
        raise BadRequest(f"'{name}' can't be metered here: leave it out.", name)
    for name, raw in given.items():
        check_value(raw, bounds, _LEVEL, name)
    uses, searches, calls, models, prompt_tokens = _tools(given.get("tools"), bounds)
    if "mcp_servers" in given and bytes(given["mcp_servers"]) != b"[]":
        uses += LOOP_TURNS
    outside = "container" in given
    if outside:
        _check_container(given["container"])
    calls += _compactions(given, uses)
    further, most, fast = _fallbacks(given.get("fallbacks"), bounds)
    speed = short_text(given["speed"], "speed") if "speed" in given else _STANDARD
    work = Work(
        outside=outside or uses > 0,
        uses=uses,
        searches=searches,
        models=tuple(dict.fromkeys((*models, *further))),
        calls=calls,
        fast=fast or speed != _STANDARD,
    )
    return Asked(NO_WORK if work == NO_WORK else work, 1 + len(further), most, prompt_tokens)


def _tools(raw: Raw | None, bounds: StructureBounds) -> tuple[int, int, int, list[str], int]:
    """Return uses, searches, further calls, models that they name, and tokens of the provider's own prompt."""
    if raw is None:
        return 0, 0, 0, [], 0
    tools = read_tool_objects(raw, _TOOL, bounds)
    uses = searches = calls = 0
    models = []
    prompt_tokens = TOOL_SYSTEM_TOKENS if tools else 0
    for index, tool in enumerate(tools):
        param = f"tools[{index}]"
        dated = "custom" if is_null(tool.get("type")) else short_text(tool["type"], f"{param}.type")
        kind = _DATE.sub("", dated)
        if kind in CAPPED_TOOLS:
            times = _max_uses(tool, dated, param)
            if kind == "advisor":
                calls += times
                models.append(short_text(tool.get("model"), f"{param}.model"))
            else:
                uses += times
                searches += times if kind == "web_search" else 0
        elif kind in LOOP_TOOLS:
            uses += LOOP_TURNS
        elif kind not in CLIENT_TOOLS:
            raise BadRequest(f"A tool of type '{dated}' can't be metered here: leave it out.", f"{param}.type")
        elif kind != "custom":
            prompt_tokens += TOOL_SYSTEM_TOKENS
    return uses, searches, calls, models, prompt_tokens


def _max_uses(tool: Mapping[str, Raw], kind: str, param: str) -> int:
    """Return how often a tool may run: once at least, because a provider that does not know the field runs it."""
    raw = tool.get("max_uses")
    if raw is None or is_null(raw):
        raise BadRequest(
            f"The tool of type '{kind}' runs at the provider, and nothing bounds how often: set its 'max_uses'.", param
        )
    return max(1, whole(raw, f"{param}.max_uses", 0, MAX_COUNT))


def _check_container(raw: Raw) -> None:
    """Refuse a container that is there already: it may be another account's."""
    if first_byte(raw) != ord("{") or not is_null(read_object(raw, "container", frozenset({"id"})).get("id")):
        raise BadRequest("A container can't be used again here: leave its id out.", "container")


def _compactions(given: Mapping[str, Raw], uses: int) -> int:
    """Return calls that may sum up the context: one before the answer, and one for each use of a tool."""
    if "compaction" in given:
        return 1 + uses
    if "context_management" not in given:
        return 0
    raw = read_object(given["context_management"], "context_management", frozenset({"edits"})).get("edits")
    if raw is None or is_null(raw):
        return 0
    edits = read_objects(raw, "context_management.edits", frozenset({"type"}))
    if edits is None:
        raise wrong_type("context_management.edits", "an array of objects")
    kinds = [_DATE.sub("", short_text(edit.get("type"), "context_management.edits.type")) for edit in edits]
    for kind in kinds:
        if kind not in _EDITS:
            raise BadRequest(f"The edit '{kind[:MAX_NAME_CHARS]}' can't be metered here.", "context_management.edits")
    return (1 + uses) * kinds.count("compact")


def _fallbacks(raw: Raw | None, bounds: StructureBounds) -> tuple[list[str], int, bool]:
    """Return the models that may answer in turn, the most tokens that one of them says, and whether one is fast."""
    if raw is None:
        return [], 0, False
    if first_byte(raw) != ord("["):
        raise BadRequest("This leaves the models to the provider: name them in a list of objects.", "fallbacks")
    entries = read_objects(raw, "fallbacks", _FALLBACK)
    if entries is None:
        raise wrong_type("fallbacks", "an array of objects")
    if len(entries) > MAX_FALLBACKS:
        raise too_many("fallbacks", MAX_FALLBACKS, "fallbacks")
    models, most, fast = [], 0, False
    for index, entry in enumerate(entries):
        param = f"fallbacks[{index}]"
        if not entry.keys() <= _FALLBACK:
            raise BadRequest(f"A fallback has no fields here but {', '.join(sorted(_FALLBACK))}.", param)
        models.append(short_text(entry.get("model"), f"{param}.model"))
        if not is_null(entry.get("max_tokens")):
            most = max(most, whole(entry["max_tokens"], f"{param}.max_tokens", 0, MAX_COUNT))
        if not is_null(entry.get("speed")):
            fast = fast or short_text(entry["speed"], f"{param}.speed") != _STANDARD
    return models, most, fast
