"""How usage is read from answers in OpenAI's format, and from those of providers that only nearly have it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import MAX_COUNT, Usage
from gateway.dialects.body import GarbageAnswer, decoded
from gateway.dialects.openai.answer import ANSWER, usage_from_json
from gateway.dialects.openai.dialect import CHAT, EMBEDDINGS
from gateway.dialects.openai.events import OpenAIEvents
from tests.support.tables import Tables

TABLES = Tables(__file__)

EVENTS = OpenAIEvents()


def read(usage: Any, **fields: Any) -> Usage | None:
    reported = usage_from_json(CHAT, json.dumps({"choices": [{}], "usage": usage} | fields).encode())
    return reported and reported.usage


def counts(prompt: Any, completion: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total} | more


@TABLES.each("searches_are_counted_beside_tokens")
def test_searches_are_counted_beside_tokens(fields, searches):
    usage = counts(10, 5, 15, **fields)
    expected = Usage(input_tokens=10, output_tokens=5, searches=searches)
    assert read(usage) == expected
    event = json.dumps({"choices": [], "usage": usage}).encode()
    reported = OpenAIEvents().facts(event).reported
    assert reported.usage == expected


def test_citations_tell_of_a_search_that_is_not_counted():
    cited = {"message": {"content": "x", "annotations": [{"type": "url_citation", "url_citation": {"url": "u"}}]}}
    quoting = {"message": {"content": 'the type "url_citation" of OpenAI', "annotations": []}}
    for choice, searches in ((cited, 1), (quoting, 0)):
        usage = read(counts(10, 5, 15), choices=[choice])
        assert usage == Usage(input_tokens=10, output_tokens=5, searches=searches)
    usage = read(counts(10, 5, 15, num_search_queries=2), choices=[cited])
    assert usage.searches == 2


def test_openai():
    body = {
        "model": "gpt-4o-2024-08-06",
        "service_tier": "flex",
        "usage": counts(
            100, 50, 150,
            prompt_tokens_details={"cached_tokens": 60, "audio_tokens": 10},
            completion_tokens_details={"reasoning_tokens": 20, "audio_tokens": 5, "accepted_prediction_tokens": 1},
        ),
    }  # fmt: skip
    reported = usage_from_json(CHAT, json.dumps(body).encode())
    assert (reported.service_tier, reported.model) == ("flex", "gpt-4o-2024-08-06")
    assert reported.usage == Usage(
        input_tokens=100,
        cached_input_tokens=60,
        audio_input_tokens=10,
        output_tokens=50,
        reasoning_tokens=20,
        audio_output_tokens=5,
    )


@TABLES.each("what_other_providers_say")
def test_what_other_providers_say(usage, expected):
    assert read(usage) == expected


@TABLES.each("contradictions_cost_no_answer")
def test_contradictions_cost_no_answer(usage, expected):
    assert read(usage) == expected


@TABLES.each("nonsense_is_no_report")
def test_nonsense_is_no_report(usage):
    assert read(usage) is None


@TABLES.each("what_was_cached_is_in_one_class")
def test_what_was_cached_is_in_one_class(inputs, usage):
    expected = Usage(input_tokens=100, output_tokens=5, **usage)
    assert read(counts(100, 5, 105, prompt_tokens_details=inputs)) == expected
    named = {"input_tokens": 100, "input_tokens_details": inputs, "output_tokens": 5, "total_tokens": 105}
    assert read(named) == expected


@TABLES.each("what_can_t_be_placed_is_an_anomaly")
def test_what_can_t_be_placed_is_an_anomaly(fields, anomalies):
    body = json.dumps({"choices": [], "usage": fields}).encode()
    for reported in (usage_from_json(CHAT, body), OpenAIEvents().facts(body).reported):
        assert reported.anomalies == anomalies


def test_usage_is_missing():
    assert usage_from_json(CHAT, b"{}") is None
    assert usage_from_json(EMBEDDINGS, b'{"data":[],"usage":null}') is None


def test_odd_names_of_tier_and_model_are_left_out():
    reported = usage_from_json(CHAT, b'{"usage":{"prompt_tokens":1},"service_tier":5,"model":{}}')
    assert (reported.service_tier, reported.model) == (None, None)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'"x"', b'{"usage":', b'{"a":1} {', b"\xff", b"{" * 100_000]
)
def test_garbage(body):
    assert decoded(ANSWER, body) is None
    with pytest.raises(GarbageAnswer):
        usage_from_json(CHAT, body)


def test_a_whole_object_is_an_answer():
    assert decoded(ANSWER, b' {"a": "\xc3\xa9"}\n')


COUNT = st.none() | st.integers(-5, 50) | st.just(MAX_COUNT) | st.just(10**15) | st.text(max_size=2) | st.floats()
DETAILS = st.none() | st.dictionaries(
    st.sampled_from(["cached_tokens", "audio_tokens", "reasoning_tokens", "cache_write_tokens"]), COUNT
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"), COUNT),
            **dict.fromkeys(("cache_creation_input_tokens", "cache_read_input_tokens"), COUNT),
            **dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"), DETAILS),
        },
    )
)
def test_no_counts_make_it_fail(usage):
    """Whatever JSON a provider puts into `usage`: a report that is consistent, or none. (NaN is not JSON.)"""
    body = json.dumps({"usage": usage})
    if "NaN" in body or "Infinity" in body:
        return
    reported = usage_from_json(CHAT, body.encode())
    if reported is not None and isinstance(usage.get("prompt_tokens"), int):
        assert reported.usage.input_tokens >= usage["prompt_tokens"]


SMALL = st.integers(0, 30)
NOTHING = st.none() | st.just(0) | st.just(3)


@given(
    SMALL,
    SMALL,
    st.integers(-1, 1),
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("cached_tokens", "cache_creation_input_tokens", "prompt_cache_hit_tokens"), NOTHING),
            "prompt_tokens_details": st.dictionaries(
                st.sampled_from(["cached_tokens", "audio_tokens", "cache_write_tokens"]), SMALL | st.none()
            ),
            "completion_tokens_details": st.dictionaries(
                st.sampled_from(["reasoning_tokens", "audio_tokens"]), SMALL | st.none()
            ),
        },
    ),
)
def test_usage_that_is_plain_is_read_as_all_other(prompt, output, off, more):
    """A whole answer's usage is read in one go where it is as OpenAI writes it; an event's never is."""
    body = json.dumps({"usage": counts(prompt, output, prompt + output + off, **more)}).encode()
    assert usage_from_json(CHAT, body) == EVENTS.facts(body).reported


@TABLES.each("counts_by_the_names_of_other_apis")
def test_counts_by_the_names_of_other_apis(counts, expected):
    body = json.dumps({"choices": [], "usage": counts}).encode()
    reported = usage_from_json("/v1/chat/completions", body)
    assert (reported and reported.usage) == expected
    assert (found := OpenAIEvents().facts(body).reported) == reported, found


@TABLES.each("a_cost_is_read_from_its_text")
def test_a_cost_is_read_from_its_text(fields, cost):
    body = f'{{"usage": {{"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, {fields}}}}}'
    reported = usage_from_json("/v1/chat/completions", body.encode())
    assert reported.usage.reported_cost_usd == cost
    assert (reported.usage.input_tokens, reported.usage.output_tokens) == (3, 4)
