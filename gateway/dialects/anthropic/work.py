"""Anthropic's format, the work that a provider does beside one call of the model named. This file owns what bounds it.

- Tools that run at the provider call the model again with what they found. A request says how often some of them may
  run (`max_uses`); where it does not, the gateway grants a number of calls and writes it there. Of the others one
  request makes at most `LOOP_TURNS` turns (https://docs.anthropic.com/en/api/handling-stop-reasons, `pause_turn`).
- A tool of a type that is not known here is held like one that runs at the provider. Nothing is written into it: a
  provider refuses a field that a tool does not have, and the tool may be the client's.
- An advisor and a compaction are calls of their own, which `max_tokens` does not bound; of fallbacks each is one more
  answer. The models that they name need a price.
- What is kept at the provider behind one key for all accounts (files, containers, threads, skills) is refused, and so
  are fields that leave the choice of a model or of who pays to the provider.

Sources: https://docs.anthropic.com/en/api/messages, .../agents-and-tools/tool-use/overview.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.body import (
    FIELDS,
    MAX_NAME_CHARS,
    TEXT,
    BadRequest,
    StructureBounds,
    check_value,
    field_of,
    first_byte,
    is_null,
    objects_of,
    read_object,
    read_tool_objects,
    short_text,
    too_many,
    whole,
)
from gateway.dialects.facts import NO_WORK, Work

CLIENT_TOOLS: Final = frozenset({"custom", "bash", "text_editor", "computer", "memory"})
SEARCH: Final = "web_search"
ADVISOR: Final = "advisor"
# Tools at the provider that have a `max_uses`.
CAPPED_TOOLS: Final = frozenset({SEARCH, "web_fetch", ADVISOR})
MCP_TOOLS: Final = "mcp_toolset"
LOOP_TOOLS: Final = frozenset(
    {"code_execution", "tool_search_tool", "tool_search_tool_bm25", "tool_search_tool_regex", MCP_TOOLS}
)
# Tools of agents that run at the provider, which a request does not bound.
REFUSED_TOOLS: Final = frozenset({"agent_toolset"})
# Turns that one request makes with tools at the provider before it pauses, whatever their number.
LOOP_TURNS: Final = 10
# Calls that each open tool is granted where every one of them may bring a call of a model beside it: that of an
# advisor, or of a compaction before the next round. Each such call is held as a context window.
FURTHER_CALLS: Final = 1
# Anthropic's own, and those with which resellers of its format choose other models or work.
REFUSED_FIELDS: Final = frozenset(
    {
        "billing_policy",
        "thread",
        "models",
        "plugins",
        "preset",
        "route",
        "agent",
        "agents",
        "multi_agent",
        "user_profile_id",
    }
)
WORK_FIELDS: Final = REFUSED_FIELDS | {
    "tools",
    "mcp_servers",
    "fallbacks",
    "container",
    "context_management",
    "compaction",
    "speed",
}
# More than the prompt that Anthropic puts before a request with tools or with a schema of its answer (346 tokens at
# most for tools), and more than what stands for one of its own tools that run at the client (at most 735):
# https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/overview#pricing.
TOOL_SYSTEM_TOKENS: Final = 1_024
# More than what stands for a tool that runs at the provider: recorded requests with `web_search` that it did not use
# have 2,131 tokens beside their text, those with `tool_search_tool_bm25` 603.
SERVER_TOOL_TOKENS: Final = 4_096
MAX_FALLBACKS: Final = 16
_DATE: Final = re.compile(r"[-_](?:\d{8}|\d{4}-\d{2}-\d{2})\Z", re.ASCII)
_TOOL: Final = frozenset({"type", "name", "max_uses", "max_tokens", "model"})
_FALLBACK: Final = frozenset({"model", "max_tokens", "output_config", "speed", "thinking"})
_NOT_IN_FALLBACK: Final = WORK_FIELDS - _FALLBACK
# How edits begin that take something out of the context, which no model is asked for.
_CLEARS: Final = "clear_"
_ANTHROPICS_SKILL: Final = "anthropic"
_STANDARD: Final = "standard"
_LEVEL: Final = 1
_OBJECT: Final = ord("{")


class Asked(msgspec.Struct, frozen=True):
    """What the fields ask for: `answers` that may be written one after the other, the first one included, each of at
    most `max_output_tokens` where one of them says so; `prompt_tokens` that the provider adds."""

    work: Work = NO_WORK
    answers: int = 1
    max_output_tokens: int = 0
    prompt_tokens: int = 0


NOTHING: Final = Asked()


def read_work(fields: Mapping[str, Raw], bounds: StructureBounds, added: Iterable[Mapping[str, Raw]] = ()) -> Asked:
    """Return the work that the fields of a request ask for; `added` are tools that its messages define. Raises
    `BadRequest`."""
    given = {name: raw for name, raw in fields.items() if name in WORK_FIELDS and not is_null(raw)}
    tools = _Tools()
    for tool in added:
        tools.read(tool, "messages.content.tool")
    if not given and not tools.prompt_tokens:
        return NOTHING
    for name in sorted(REFUSED_FIELDS & given.keys()):
        raise BadRequest(f"'{name}' can't be metered here: leave it out.", name)
    for name, raw in given.items():
        check_value(raw, bounds, _LEVEL, name)
    if "tools" in given:
        for index, tool in enumerate(read_tool_objects(given["tools"], _TOOL, bounds)):
            tools.read(tool, f"tools[{index}]")
    if "mcp_servers" in given and bytes(given["mcp_servers"]) != b"[]":
        tools.read_loop(MCP_TOOLS)
    outside = tools.outside
    if "container" in given:
        outside = _check_container(given["container"]) or outside
    further, most, fast = _fallbacks(given.get("fallbacks"), bounds)
    speed = short_text(given["speed"], "speed") if "speed" in given else _STANDARD
    work = tools.work(compactions=_compactions(given), outside=outside, models=further, fast=fast or speed != _STANDARD)
    return Asked(NO_WORK if work == NO_WORK else work, 1 + len(further), most, tools.prompt_tokens)


class _Tools:
    """The tools of a request, added up."""

    __slots__ = (
        "_advised",
        "_bounded",
        "_loops",
        "_models",
        "_open",
        "_searches",
        "_unknown",
        "_uses",
        "outside",
        "prompt_tokens",
    )

    def __init__(self) -> None:
        self._uses = self._searches = self._advised = self.prompt_tokens = 0
        self._open: list[str] = []
        self._unknown: list[str] = []
        self._bounded: list[str] = []
        self._models: list[str] = []
        self._loops = False
        self.outside = False

    def read(self, tool: Mapping[str, Raw], param: str) -> None:
        """Add one tool. Raises `BadRequest`."""
        self.prompt_tokens = self.prompt_tokens or TOOL_SYSTEM_TOKENS
        dated = "custom" if is_null(tool.get("type")) else short_text(tool["type"], f"{param}.type")
        kind = _DATE.sub("", dated)
        if kind in CLIENT_TOOLS:
            self.prompt_tokens += 0 if kind == "custom" else TOOL_SYSTEM_TOKENS
            return
        self.prompt_tokens += SERVER_TOOL_TOKENS
        if kind in REFUSED_TOOLS:
            raise BadRequest(f"A tool of type '{dated}' can't be metered here: leave it out.", f"{param}.type")
        if kind in LOOP_TOOLS:
            self.read_loop(kind)
        elif kind in CAPPED_TOOLS:
            self._read_capped(kind, tool, param)
        else:
            self._open.append(kind)
            self._unknown.append(kind)

    def read_loop(self, kind: str) -> None:
        """Add a tool whose turns the provider bounds. The definitions of tools that another server has are no part of
        the body."""
        self._loops = True
        self._bounded.append(kind)
        self.outside = self.outside or kind == MCP_TOOLS

    def _read_capped(self, kind: str, tool: Mapping[str, Raw], param: str) -> None:
        if kind == ADVISOR:
            self._models.append(short_text(tool.get("model"), f"{param}.model"))
        raw = field_of(tool, "max_uses")
        if raw is None:
            self._open.append(kind)
            return
        times = max(1, whole(raw, f"{param}.max_uses", 0, MAX_COUNT))  # not every provider knows the field
        self._uses += times
        self._bounded.append(kind)
        self._advised += times if kind == ADVISOR else 0
        self._searches += times if kind == SEARCH else 0

    def work(self, *, compactions: int, outside: bool, models: Iterable[str], fast: bool) -> Work:
        """Return the work of all tools; `compactions` may come before each round, and `models` are further ones."""
        uses = self._uses + (LOOP_TURNS if self._loops else 0)
        advisors = self._open.count(ADVISOR)
        most_calls = FURTHER_CALLS if self._open and (advisors or compactions) else None
        rounds = 1 + uses + len(self._open) * (most_calls or 0)
        return Work(
            outside=outside,
            uses=uses,
            searches=self._searches,
            models=tuple(dict.fromkeys((*self._models, *models))),
            calls=self._advised + advisors * FURTHER_CALLS + compactions * rounds,
            fast=fast,
            open_tools=tuple(self._open),
            unknown_tools=tuple(self._unknown),
            calls_are_shared=not self._open,
            open_searches=self._open.count(SEARCH),
            most_calls=most_calls,
            bounded_tools=tuple(dict.fromkeys(self._bounded)),
        )


def grant_uses(tool: Raw, calls: int) -> Raw:
    """Return a tool with so many uses, where it has a `max_uses` and does not say it; the same object otherwise. For
    tools of bodies that `read_work` has accepted."""
    if first_byte(tool) != _OBJECT:
        return tool
    fields: dict[str, Any] = dict(FIELDS.decode(tool))
    if is_null(fields.get("type")) or not is_null(fields.get("max_uses")):
        return tool
    if _DATE.sub("", TEXT.decode(fields["type"])[:MAX_NAME_CHARS]) not in CAPPED_TOOLS:
        return tool
    return Raw(msgspec.json.encode({**fields, "max_uses": calls}))


def _check_container(raw: Raw) -> bool:
    """Return whether a container has something in it, which is no part of the body. Refuses one that is there already,
    and what an account has stored to put into it: these may be another account's."""
    fields = read_object(raw, "container", frozenset({"id", "skills"})) if first_byte(raw) == _OBJECT else None
    if fields is None or not is_null(fields.get("id")):
        raise BadRequest("A container can't be used again here: leave its id out.", "container")
    given = field_of(fields, "skills")
    if given is None:
        return False
    skills = objects_of(given, "container.skills", frozenset({"type", "skill_id"}))
    for skill in skills:
        if short_text(skill.get("type"), "container.skills.type") != _ANTHROPICS_SKILL:
            message = "Skills that are kept at the provider can't be used here: take those of type 'anthropic'."
            raise BadRequest(message, "container.skills")
    return bool(skills)


def _compactions(given: Mapping[str, Raw]) -> int:
    """Return calls that may sum up the context before each round. An edit that is not known here, and takes nothing
    out by its name, may be one."""
    compactions = 1 if "compaction" in given else 0
    if "context_management" not in given:
        return compactions
    raw = field_of(read_object(given["context_management"], "context_management", frozenset({"edits"})), "edits")
    if raw is None:
        return compactions
    edits = objects_of(raw, "context_management.edits", frozenset({"type"}))
    kinds = [short_text(edit.get("type"), "context_management.edits.type") for edit in edits]
    return compactions + sum(not kind.startswith(_CLEARS) for kind in kinds)


def _fallbacks(raw: Raw | None, bounds: StructureBounds) -> tuple[list[str], int, bool]:
    """Return the models that may answer in turn, the most tokens that one of them says, and whether one is fast."""
    if raw is None:
        return [], 0, False
    if first_byte(raw) != ord("["):
        raise BadRequest("This leaves the models to the provider: name them in a list of objects.", "fallbacks")
    entries = objects_of(raw, "fallbacks", _FALLBACK | _NOT_IN_FALLBACK)
    if len(entries) > MAX_FALLBACKS:
        raise too_many("fallbacks", MAX_FALLBACKS, "fallbacks")
    models, most, fast = [], 0, False
    for index, entry in enumerate(entries):
        param = f"fallbacks[{index}]"
        for name in sorted(_NOT_IN_FALLBACK & entry.keys()):
            raise BadRequest(f"A fallback can't have its own '{name}' here: leave it out.", param)
        models.append(short_text(entry.get("model"), f"{param}.model"))
        if not is_null(entry.get("max_tokens")):
            most = max(most, whole(entry["max_tokens"], f"{param}.max_tokens", 0, MAX_COUNT))
        if not is_null(entry.get("speed")):
            fast = fast or short_text(entry["speed"], f"{param}.speed") != _STANDARD
    return models, most, fast
