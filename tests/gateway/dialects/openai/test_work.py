"""Work of a provider beyond one call of its model: which fields bound it, and which requests are refused."""

import json
from typing import Any

import pytest

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_WORK, Work
from gateway.dialects.openai.dialect import CHAT, EMBEDDINGS, parse
from tests.support.tables import Tables

TABLES = Tables(__file__)

SAY = [{"role": "user", "content": "hi"}]
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "web_search"}}}
SEARCH = {"type": "web_search", "max_uses": 3}


def work(**fields: Any) -> Work:
    request = parse(CHAT, json.dumps({"model": "m", "messages": SAY, **fields}).encode())
    assert request.unbounded_input == request.work.outside
    return request.work


def bounded(uses: int, searches: int, *kinds: str) -> Work:
    return Work(uses=uses, searches=searches, bounded_tools=kinds)


def left_open(*kinds: str, searches: int = 0, unknown: tuple[str, ...] = ()) -> Work:
    return Work(open_tools=kinds, open_searches=searches, unknown_tools=unknown)


def refused(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        work(**fields)
    return caught.value


@TABLES.each("what_asks_for_nothing_else")
def test_what_asks_for_nothing_else(fields: dict[str, Any]) -> None:
    assert work(**fields) is NO_WORK


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"tools": [SEARCH]}, bounded(3, 3, "web_search")),
        (
            {"tools": [FUNCTION, SEARCH, {"type": "code_execution_20250825", "max_uses": 2}]},
            bounded(5, 3, "web_search", "code_execution_20250825"),
        ),
        (
            {"tools": [{"type": "browser_search"}, {"type": "mcp"}], "max_tool_calls": 4},
            bounded(4, 4, "browser_search", "mcp"),
        ),
        ({"tools": [{"type": "mcp", "max_uses": 9}], "max_tool_calls": 4}, bounded(4, 0, "mcp")),
        ({"tools": [{"type": "code_interpreter", "max_uses": 0}]}, bounded(1, 0, "code_interpreter")),
        ({"tools": [SEARCH], "max_tool_calls": 0}, bounded(1, 1, "web_search")),
        ({"tools": [{"google_search": {}, "max_uses": 1}]}, bounded(1, 1, "google_search max_uses")),
        (
            {"tools": [{"type": "advisor", "max_uses": 1, "model": "dear"}]},
            Work(uses=1, bounded_tools=("advisor",), models=("dear",)),
        ),
        ({"web_search_options": {}}, Work(uses=1, searches=1, one_search=True)),
        ({"enable_search": True}, Work(uses=1, searches=1)),
        ({"moderation": {"model": "omni-moderation-latest"}}, Work(models=("omni-moderation-latest",))),
        (
            {"prediction": {"type": "content", "content": "x" * 9}},
            Work(predicted=len('{"type": "content", "content": ""}') + 9),
        ),
        ({"prediction": None, "verbosity": "low", "prompt_cache_options": {"mode": "explicit", "ttl": "30m"}}, NO_WORK),
        ({"data_sources": [{"type": "azure_search"}]}, Work(uses=1)),
        ({"search_parameters": {"mode": "auto", "max_search_results": 4}}, Work(uses=4, searches=4)),
        ({"search_parameters": {"mode": "off"}}, NO_WORK),
        ({"plugins": [{"id": "web", "max_results": 2}]}, Work(uses=2, searches=2)),
        ({"plugins": [{"id": "web"}]}, Work(uses=5, searches=5)),
        ({"plugins": [{"id": "file-parser", "pdf": {"engine": "pdf-text"}}]}, Work(True)),
        ({"plugins": [{"id": "file-parser", "pdf": None}]}, Work(True)),
        ({"mcp_servers": [{"url": "u"}], "max_tool_calls": 2}, bounded(2, 0, "mcp_servers")),
        ({"agents": [{"name": "a"}], "max_tool_calls": 2}, bounded(2, 0, "agents")),
        ({"previous_response_id": "resp_1"}, Work(True)),
        ({"conversation": {"id": "c"}}, Work(True)),
        ({"cached_content": "cachedContents/1"}, Work(True)),
        ({"extra_body": {"google": {"cached_content": "c"}}}, Work(True)),
        ({"models": ["a/b", "c", "a/b"]}, Work(models=("a/b", "c"))),
        ({"models": ["c"], "route": "fallback"}, Work(models=("c",))),
        ({"fallbacks": [{"model": "c"}, {"model": "d"}]}, Work(models=("c", "d"))),
        ({"moderation": {"model": "omni"}}, Work(models=("omni",))),
        ({"modalities": ["text", "audio"], "audio": {"voice": "x", "format": "wav"}}, Work(audio=True)),
        (
            {"tools": [SEARCH], "previous_response_id": "r", "web_search_options": {}},
            Work(outside=True, uses=4, searches=4, one_search=True),
        ),
    ],
)
def test_what_is_asked_for_is_counted(fields: dict[str, Any], asked: Work) -> None:
    assert work(**fields) == asked


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"tools": [FUNCTION, {"type": "web_search"}]}, left_open("web_search", searches=1)),
        (
            {"tools": [{"type": "openrouter:web_search"}, {"type": "mcp"}]},
            left_open("openrouter:web_search", "mcp", searches=1),
        ),
        ({"tools": [{"googleSearch": {}}]}, left_open("googleSearch", searches=1)),
        ({"tools": [{"type": "Function", "function": {"name": "f"}}]}, left_open("Function", unknown=("Function",))),
        ({"tools": [{"type": "whatever_comes"}]}, left_open("whatever_comes", unknown=("whatever_comes",))),
        ({"tools": [{"type": "box", "tools": ["a", "b"]}]}, left_open("box", unknown=("box",))),
        ({"tools": [{"type": "tool_search"}]}, left_open("tool_search")),
        ({"search_parameters": {"mode": "auto"}}, left_open("search_parameters", searches=1)),
        ({"tools": [{"type": "openrouter:web_fetch", "max_uses": 1}]}, left_open("openrouter:web_fetch")),
        ({"mcp_servers": [{"url": "u"}], "connectors": [{"id": "c"}]}, left_open("connectors", "mcp_servers")),
        (
            {"tools": [SEARCH, {"type": "browser_search"}]},
            Work(uses=3, searches=3, bounded_tools=("web_search",), open_tools=("browser_search",), open_searches=1),
        ),
    ],
)
def test_what_a_request_does_not_bound_is_left_open(fields: dict[str, Any], asked: Work) -> None:
    assert work(**fields) == asked


@TABLES.each("what_nothing_bounds_is_refused_and_told_what_to_set")
def test_what_nothing_bounds_is_refused_and_told_what_to_set(fields: dict[str, Any], param: str, named: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert named in error.message


def test_embeddings_may_name_other_models_too() -> None:
    request = parse(EMBEDDINGS, b'{"model":"m","input":"x","models":["dear"]}')
    assert request.work.models == ("dear",)
