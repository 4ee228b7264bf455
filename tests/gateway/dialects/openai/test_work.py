"""Work of a provider beyond one call of its model: which fields bound it, and which requests are refused."""

import json
from typing import Any

import pytest

from gateway.dialects.body import BadRequest
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
def test_what_asks_for_nothing_else(fields):
    assert work(**fields) is NO_WORK


@TABLES.each("what_is_asked_for_is_counted")
def test_what_is_asked_for_is_counted(fields, asked):
    assert work(**fields) == asked


@TABLES.each("what_a_request_does_not_bound_is_left_open")
def test_what_a_request_does_not_bound_is_left_open(fields, asked):
    assert work(**fields) == asked


@TABLES.each("what_nothing_bounds_is_refused_and_told_what_to_set")
def test_what_nothing_bounds_is_refused_and_told_what_to_set(fields, param, named):
    error = refused(**fields)
    assert error.param == param
    assert named in error.message


def test_embeddings_may_name_other_models_too():
    request = parse(EMBEDDINGS, b'{"model":"m","input":"x","models":["dear"]}')
    assert request.work.models == ("dear",)
