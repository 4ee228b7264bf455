"""Tools and opt-ins in every place where a request may carry them: what passes, what is left open, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.dialects.base import Dialect, Match
from gateway.dialects.body import BadRequest, StructureBounds, folded
from gateway.dialects.declarations import Endpoint
from gateway.dialects.declared import DEFAULT_BETAS, Betas
from gateway.dialects.facts import NO_WORK, ParsedRequest
from gateway.dialects.openai.dialect import METERING_FIELDS as CHAT_FIELDS
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.dialects.openai.work import UNMETERED
from gateway.dialects.openai_responses.dialect import ResponsesDialect, SocketDialect
from gateway.dialects.openai_responses.request import ID_FIELDS, METERING_FIELDS

BOUNDS = StructureBounds()
SAY = {"role": "user", "content": "Hi"}
AGENTS = json.loads((Path(__file__).parent / "agents.json").read_text())
LISTED = Betas(DEFAULT_BETAS)
PLAIN, OPEN, REFUSED = "plain", "open", "refused"


class Sent:
    """The head of a request."""

    def __init__(self, dialect: Dialect, path: str, headers: dict[str, str]) -> None:
        self.match = Match(dialect, Endpoint(path, path))
        self.path = path
        self.headers = CIMultiDict(headers)


def sent(path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> ParsedRequest:
    dialect = OpenAIDialect(BOUNDS) if "chat" in path else ResponsesDialect(BOUNDS)
    head = Sent(dialect, path, headers or {})
    return LISTED.applied(dialect.parse(head, json.dumps(body).encode()), head.headers)


def over_http(**fields: Any) -> ParsedRequest:
    return sent("/v1/responses", {"model": "m", "input": [SAY], **fields})


def over_a_socket(**fields: Any) -> ParsedRequest:
    dialect = SocketDialect(BOUNDS)
    body = json.dumps({"type": "response.create", "model": "m", "input": [SAY], **fields}).encode()
    return dialect.parse(Sent(dialect, "/v1/responses", {"Upgrade": "websocket"}), body)


def in_a_chat(**fields: Any) -> ParsedRequest:
    return sent("/v1/chat/completions", {"model": "m", "messages": [SAY], **fields})


def carried(kind: str, tool: dict[str, Any]) -> dict[str, Any]:
    return {"input": [SAY, {"type": kind, "tools": [tool]}, SAY]}


def group(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "f"}, tool]}


PLACES = {
    "chat tools": lambda tool: in_a_chat(tools=[tool]),
    "chat, in a group": lambda tool: in_a_chat(tools=[group(tool)]),
    "tools": lambda tool: over_http(tools=[tool]),
    "in a group": lambda tool: over_http(tools=[group(tool)]),
    "in a group of a group": lambda tool: over_http(tools=[group(group(tool))]),
    "in a group of another type": lambda tool: over_http(tools=[{**group(tool), "type": "computer_kit"}]),
    "additional_tools": lambda tool: over_http(**carried("additional_tools", tool)),
    "additional_tools, in a group": lambda tool: over_http(**carried("additional_tools", group(tool))),
    "tool_search_output": lambda tool: over_http(**carried("tool_search_output", tool)),
    "an item of an unknown type": lambda tool: over_http(**carried("more_tools", tool)),
    "socket": lambda tool: over_a_socket(tools=[tool]),
    "socket, additional_tools": lambda tool: over_a_socket(**carried("additional_tools", tool)),
    "socket, not stored": lambda tool: over_a_socket(store=False, **carried("tool_search_output", group(tool))),
    "prewarm": lambda tool: over_a_socket(generate=False, tools=[tool]),
    "prewarm, additional_tools": lambda tool: over_a_socket(generate=False, **carried("additional_tools", tool)),
}
TOOLS = {
    "function": ({"type": "function", "name": "f", "parameters": {"type": "object"}}, PLAIN),
    "a function without a type": ({"name": "f", "parameters": {}}, PLAIN),
    "custom": ({"type": "custom", "name": "c"}, PLAIN),
    "an empty group": ({"type": "namespace", "name": "n", "tools": []}, PLAIN),
    "tool_search, client": ({"type": "tool_search", "execution": "client", "parameters": {}}, PLAIN),
    "local_shell": ({"type": "local_shell"}, PLAIN),
    "apply_patch": ({"type": "apply_patch"}, PLAIN),
    "computer": ({"type": "computer"}, PLAIN),
    "computer_use_preview": ({"type": "computer_use_preview", "environment": "linux"}, PLAIN),
    "shell": ({"type": "shell"}, PLAIN),
    "shell, local": ({"type": "shell", "environment": {"type": "local", "skills": []}}, PLAIN),
    "tool_search": ({"type": "tool_search"}, OPEN),
    "tool_search, server": ({"type": "tool_search", "execution": "server"}, OPEN),
    "web_search": ({"type": "web_search", "external_web_access": True}, OPEN),
    "web_search_preview": ({"type": "web_search_preview_2025_03_11"}, OPEN),
    "mcp": ({"type": "mcp", "server_label": "s", "server_url": "https://s"}, OPEN),
    "programmatic_tool_calling": ({"type": "programmatic_tool_calling"}, OPEN),
    "x_search": ({"type": "x_search"}, OPEN),
    "unknown": ({"type": "telepathy", "range": {"km": 3}}, OPEN),
    "escaped": ({"type": "tele\u00e9pathy\n"}, OPEN),
    "image_generation": ({"type": "image_generation", "model": "gpt-image-2"}, REFUSED),
    "an advisor of OpenRouter's": (
        {"type": "openrouter:advisor", "parameters": {"model": "anthropic/claude-opus-5"}},
        REFUSED,
    ),
    "a subagent of OpenRouter's": ({"type": "openrouter:subagent"}, REFUSED),
    "a panel of OpenRouter's": ({"type": "openrouter:fusion", "parameters": {"analysis_models": ["m"]}}, REFUSED),
    "in capitals": ({"type": "Image_Generation"}, REFUSED),
    "shell in a container": ({"type": "shell", "environment": {"type": "container_auto"}}, REFUSED),
    "shell by reference": ({"type": "shell", "environment": {"type": "container_reference"}}, REFUSED),
}
ONLY_OF_RESPONSES = {
    "code_interpreter": {"type": "code_interpreter", "container": {"type": "auto"}},
    "file_search": {"type": "file_search", "vector_store_ids": []},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_is_the_same_wherever_it_stands(place, name):
    tool, expected = TOOLS[name]
    send = PLACES[place]
    if expected == REFUSED:
        with pytest.raises(BadRequest) as refused:
            send(tool)
        assert "can't be metered" in refused.value.message
        assert "tools[" in str(refused.value.param)
        return
    work = send(tool).work
    if expected == PLAIN or place.startswith("prewarm"):  # of a prewarm nothing runs
        assert (work.open_tools, work.uses) == ((), 0)
    else:
        assert work.open_tools == (tool["type"],)
    if expected == OPEN:
        assert work.unknown_tools == ((tool["type"],) if tool["type"].startswith("tele") else ())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ONLY_OF_RESPONSES)
def test_what_openai_bills_by_the_call_or_the_session_is_refused(place, name):
    tool = ONLY_OF_RESPONSES[name]
    if place.startswith("chat"):  # others' tools of this name, which cost tokens
        assert PLACES[place](tool).work.open_tools == (name,)
        return
    with pytest.raises(BadRequest) as refused:
        PLACES[place](tool)
    assert "leave the tool out" in refused.value.message


def test_tools_of_all_places_are_bounded_together():
    items = carried("additional_tools", {"type": "web_search"})
    asked = over_http(**items, tools=[{"type": "mcp"}], max_tool_calls=3)
    assert (asked.work.uses, asked.work.searches) == (3, 3)
    assert asked.work.bounded_tools == ("mcp", "web_search")
    assert asked.stored.tools == ("web_search",)  # which stay in what goes on from the answer
    left_open = over_http(**items, tools=[{"type": "mcp"}])
    assert left_open.work.open_tools == ("mcp", "web_search")


@pytest.mark.parametrize("request_of", AGENTS, ids=lambda each: f"{each['tool']} {each['path']}")
def test_what_agents_send_is_served(request_of):
    parsed = sent(request_of["path"], request_of["body"], request_of["headers"])
    assert not parsed.unbounded_input
    assert parsed.work.unknown_tools == ()
    searches = any(tool.get("type") == "web_search" for tool in request_of["body"].get("tools", []))
    assert parsed.work.open_tools == (("web_search",) if searches else ())
    if request_of["path"] == "/v1/responses":
        message = {**request_of["body"], "type": "response.create"}
        message.pop("stream", None)
        assert over_a_socket(**message).work == parsed.work


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
KNOWN = frozenset(map(folded, METERING_FIELDS | CHAT_FIELDS | {"messages", "type", "stream_id", "response"}))
# Names that metering reads within tools and items, in any spelling.
READ = frozenset(
    map(
        folded,
        ID_FIELDS
        | {"type", "role", "content", "output", "id", "encrypted_content", "tools", "name", "function", "custom"}
        | {"max_uses", "model", "environment", "execution", "text", "image_url", "file_url", "file_data", "detail"},
    )
)


def costs(kind: str) -> bool:
    return any(part in folded(kind) for part in UNMETERED)


def untricky(value: Any) -> bool:
    """Return whether no name below is one that metering reads, nor beside itself in another spelling."""
    if isinstance(value, dict):
        names = [folded(name) for name in value]
        return len(set(names)) == len(names) and READ.isdisjoint(names) and all(map(untricky, value.values()))
    return all(map(untricky, value)) if isinstance(value, list) else True


def objects(kinds: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    fields = st.dictionaries(NAMES, VALUES, max_size=4).filter(untricky)
    return st.builds(lambda kind, others: {**others, "type": kind}, kinds, fields)


UNKNOWN_TOOLS = objects(NAMES.filter(lambda kind: kind not in ("shell", "namespace") and not costs(kind)))
UNKNOWN_ITEMS = objects(NAMES.filter(lambda kind: kind != "item_reference"))
UNKNOWN_FIELDS = st.dictionaries(NAMES.filter(lambda name: folded(name) not in KNOWN), VALUES, max_size=4).filter(
    lambda fields: len(set(map(folded, fields))) == len(fields)
)
BETAS = st.from_regex(r"[a-z_]{1,20}=[a-z0-9-]{1,10}", fullmatch=True).filter(
    lambda value: not value.startswith(tuple(DEFAULT_BETAS["openai-beta"]))
)


@given(
    fields=UNKNOWN_FIELDS,
    tools=st.lists(UNKNOWN_TOOLS, max_size=3),
    items=st.lists(UNKNOWN_ITEMS, max_size=3),
    betas=st.lists(BETAS, max_size=3),
)
def test_what_is_merely_new_never_makes_a_refusal(fields, tools, items, betas):
    headers = {"OpenAI-Beta": ", ".join(betas)} if betas else {}
    message = {"model": "m", "tools": tools, "input": [SAY, *items], **fields}
    parsed = sent("/v1/responses", message, headers)
    over_a_socket(**message)
    chat = sent("/v1/chat/completions", {"model": "m", "messages": [SAY], "tools": tools, **fields}, headers)
    assert parsed.work.open_tools == chat.work.open_tools
    assert set(parsed.work.unknown_tools) <= set(parsed.work.open_tools)


@pytest.mark.parametrize("value", ["responses_websockets=2026-02-06", "assistants=v2", "", "what_comes_next=v1"])
def test_betas_pass_as_they_come(value):
    body = {"model": "m", "input": "Hi"}
    assert sent("/v1/responses", body, {"openai-beta": value}).work is NO_WORK


@pytest.mark.parametrize("value", ["responses_multi_agent=v1", "assistants=v2, Responses_Multi_Agent=v9"])
def test_betas_that_open_work_without_a_bound_are_named(value):
    for path, body in (("/v1/responses", {"input": "Hi"}), ("/v1/chat/completions", {"messages": [SAY]})):
        with pytest.raises(BadRequest) as refused:
            sent(path, {"model": "m", **body}, {"openai-beta": value})
        assert refused.value.param == "openai-beta"
        assert "multi_agent" in refused.value.message.lower()
        assert "assistants" not in refused.value.message
