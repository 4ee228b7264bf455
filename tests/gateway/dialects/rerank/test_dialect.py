"""Reranks: their bounds, what is refused, and usage in the shapes of each vendor."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.base import Match
from gateway.dialects.body import BadRequest, GarbageAnswer, StructureBounds
from gateway.dialects.facts import ParsedRequest
from gateway.dialects.rerank.dialect import PAIR_TOKENS, RERANK, RerankDialect
from tests.support.tables import Tables

TABLES = Tables(__file__)

DIALECT = RerankDialect(StructureBounds(messages=2_000))
RESULTS = [{"index": 0, "relevance_score": 0.9}]


@dataclass(frozen=True)
class Asked:
    match: Match = field(default_factory=lambda: Match(DIALECT, DIALECT.endpoints[0]))
    path: str = "/v1/rerank"
    headers: dict[str, str] = field(default_factory=dict)


def rerank(**fields: Any) -> bytes:
    return json.dumps({"model": "rerank-v3.5", "query": "Peru", "documents": ["Lima", "Rome"], **fields}).encode()


def parsed(body: bytes) -> ParsedRequest:
    return DIALECT.parse(Asked(), body)


@pytest.mark.parametrize(
    "documents",
    [["Lima", "Rome"], [{"text": "Lima"}, {"text": "Rome", "title": "Italy", "year": 3, "more": None}]],
)
def test_a_rerank_is_bounded(documents):
    body = rerank(documents=documents, top_n=1, return_documents=True, max_tokens_per_doc=9)
    request = parsed(body)
    assert (request.model, request.operation) == ("rerank-v3.5", RERANK)
    assert (request.has_output, request.stream) == (False, False)
    assert request.input_bound_tokens == len(body) + 2 * (len("Peru") + PAIR_TOKENS)
    assert request.work.search_units == 1


@given(st.text(max_size=2_000), st.lists(st.text(max_size=3_000), min_size=1, max_size=300))
def test_searches_and_tokens_are_bounded_from_above(query, documents):
    """By the vendors' rules, with a token for each byte, which no tokenizer exceeds."""
    request = parsed(rerank(query=query, documents=documents))
    asked, sizes = len(query.encode()), [len(each.encode()) for each in documents]
    room = max(1, 500 - asked)
    pieces = sum(max(1, -(-size // room)) for size in sizes)
    assert request.work.search_units >= -(-pieces // 100)
    assert request.input_bound_tokens >= asked * len(documents) + sum(sizes)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (rerank(model=3), "model"),
        (rerank(model=""), "model"),
        (rerank(query=["a"]), "query"),
        (rerank(documents="Lima"), "documents"),
        (rerank(documents=["Lima", {"text": "Rome"}]), "documents"),
        (rerank(documents=[3]), "documents"),
        (rerank(documents=[{"image": "https://example.com/a.png"}]), "documents"),
        (rerank(documents=[{"Image_URL": "https://example.com/a.png"}]), "documents"),
        (rerank(documents=[{"text": {"deep": "x"}}]), "documents"),
        (rerank(documents=["x"] * 2_001), "documents"),
        (rerank(Documents=["x"]), "documents"),
        (b'{"model":"m","query":"q","documents":["a"],"documents":["b"]}', "documents"),
        (b'{"query":"q","documents":["a"]}', "model"),
        (b'{"model":"m","query":"q"}', "documents"),
    ],
)
def test_what_can_t_be_bounded_is_refused(body, param):
    with pytest.raises(BadRequest) as refused:
        parsed(body)
    assert refused.value.param == param


@TABLES.each("each_vendor_s_usage")
def test_each_vendor_s_usage(answer, usage):
    reported = DIALECT.usage_from_json(RERANK, json.dumps({"results": RESULTS, **answer}).encode())
    assert (reported.usage if reported else None) == usage


def test_a_report_that_can_t_be_true_takes_no_time():
    body = b'{"meta": {"billed_units": {"search_units": 1e999999999}}}'
    assert DIALECT.usage_from_json(RERANK, body) is None


def test_an_answer_that_is_no_object_is_garbage():
    with pytest.raises(GarbageAnswer):
        DIALECT.usage_from_json(RERANK, b"[1")


def test_the_query_is_counted_once_for_each_document():
    assert DIALECT.input_tokens(rerank(), len) == (2 * len("Peru") + len("LimaRome"), [])
