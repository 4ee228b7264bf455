"""How usage is read from answers in OpenAI's format, and from those of providers that only nearly have it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import MAX_COUNT, Usage
from gateway.dialects.decoding import decoded
from gateway.dialects.exceptions import GarbageAnswer
from gateway.dialects.openai.dialect import CHAT, EMBEDDINGS
from gateway.dialects.openai.output import OpenAIEvents
from gateway.dialects.openai.usage import ANSWER, usage_from_json
from gateway.dialects.shares import MORE_IN_TOTAL

EVENTS = OpenAIEvents()


def read(usage: Any, **fields: Any) -> Usage | None:
    reported = usage_from_json(CHAT, json.dumps({"choices": [{}], "usage": usage} | fields).encode())
    return reported and reported.usage


def counts(prompt: Any, completion: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total} | more


@pytest.mark.parametrize(
    ("fields", "searches"),
    [
        ({"server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 9}}, 3),
        ({"server_tool_use": {"web_search_requests": None}}, 0),
        ({"server_tool_use": [], "num_search_queries": 2}, 2),
        ({"num_search_queries": 4}, 4),
        ({"num_sources_used": 7}, 7),
        ({"num_sources_used": 0}, 0),
        ({"num_sources_used": -1}, 0),
        ({"num_sources_used": 10**12}, MAX_COUNT),
        (
            {
                "server_side_tool_usage_details": {
                    "web_search_calls": 2,
                    "x_search_calls": 1,
                    "code_interpreter_calls": 5,
                },
                "num_sources_used": 40,
            },
            3,
        ),
        ({"server_side_tool_usage_details": None, "num_sources_used": 2}, 2),
        ({"server_side_tool_usage_details": {"web_search_calls": "x"}}, 0),
    ],
)
def test_searches_are_counted_beside_tokens(fields: dict[str, Any], searches: int) -> None:
    usage = counts(10, 5, 15, **fields)
    expected = Usage(input_tokens=10, output_tokens=5, searches=searches)
    assert read(usage) == expected
    event = json.dumps({"choices": [], "usage": usage}).encode()
    reported = OpenAIEvents().facts(event).reported
    assert reported is not None
    assert reported.usage == expected


def test_citations_tell_of_a_search_that_is_not_counted() -> None:
    cited = {"message": {"content": "x", "annotations": [{"type": "url_citation", "url_citation": {"url": "u"}}]}}
    quoting = {"message": {"content": 'the type "url_citation" of OpenAI', "annotations": []}}
    for choice, searches in ((cited, 1), (quoting, 0)):
        usage = read(counts(10, 5, 15), choices=[choice])
        assert usage == Usage(input_tokens=10, output_tokens=5, searches=searches)
    usage = read(counts(10, 5, 15, num_search_queries=2), choices=[cited])
    assert usage is not None
    assert usage.searches == 2


def test_openai() -> None:
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
    assert reported is not None
    assert (reported.service_tier, reported.model) == ("flex", "gpt-4o-2024-08-06")
    assert reported.usage == Usage(
        input_tokens=100,
        cached_input_tokens=60,
        audio_input_tokens=10,
        output_tokens=50,
        reasoning_tokens=20,
        audio_output_tokens=5,
    )


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # DeepSeek
        (
            counts(10, 2, 12, prompt_cache_hit_tokens=4, prompt_cache_miss_tokens=6),
            Usage(input_tokens=10, cached_input_tokens=4, output_tokens=2),
        ),
        # Moonshot
        (counts(10, 2, 12, cached_tokens=4), Usage(input_tokens=10, cached_input_tokens=4, output_tokens=2)),
        # OpenRouter
        (
            counts(10, 2, 12, prompt_tokens_details={"cached_tokens": 3, "cache_write_tokens": 5}),
            Usage(input_tokens=10, cached_input_tokens=3, cache_write_tokens=5, output_tokens=2),
        ),
        # LiteLLM in front of Anthropic: the same number under two names
        (
            counts(
                20, 2, 22, prompt_tokens_details={"cached_tokens": 3}, cache_read_input_tokens=3,
                cache_creation_input_tokens=5,
            ),
            Usage(input_tokens=20, cached_input_tokens=3, cache_write_tokens=5, output_tokens=2),
        ),
        # Anthropic's way, with the cache beside the prompt
        (
            counts(10, 2, 20, cache_read_input_tokens=3, cache_creation_input_tokens=5),
            Usage(input_tokens=18, cached_input_tokens=3, cache_write_tokens=5, output_tokens=2),
        ),
        # xAI, with reasoning beside the completion
        (
            counts(12, 1, 399, completion_tokens_details={"reasoning_tokens": 386}),
            Usage(input_tokens=12, output_tokens=387, reasoning_tokens=386),
        ),
        # Anthropic's way with thinking inside, and both beside
        (
            counts(10, 60, 78, cache_read_input_tokens=8, completion_tokens_details={"reasoning_tokens": 50}),
            Usage(input_tokens=18, cached_input_tokens=8, output_tokens=60, reasoning_tokens=50),
        ),
        (
            counts(10, 2, 70, cache_read_input_tokens=8, completion_tokens_details={"reasoning_tokens": 50}),
            Usage(input_tokens=18, cached_input_tokens=8, output_tokens=52, reasoning_tokens=50),
        ),
        # Google, with thinking in the total alone
        (counts(20, 198, 623), Usage(input_tokens=20, output_tokens=603)),
        # Embeddings
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(input_tokens=8)),
        ({"total_tokens": 8}, Usage(input_tokens=8)),
        # Numbers in other clothes
        (counts(10.0, "2"), Usage(input_tokens=10, output_tokens=2)),
    ],
)  # fmt: skip
def test_what_other_providers_say(usage: dict[str, Any], expected: Usage) -> None:
    assert read(usage) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (counts(10, 5, prompt_tokens_details={"cached_tokens": -3}), Usage(input_tokens=10, output_tokens=5)),
        (
            counts(10, 5, prompt_tokens_details={"cached_tokens": 99}),
            Usage(input_tokens=10, cached_input_tokens=10, output_tokens=5),
        ),
        (
            counts(10, 5, 15, prompt_tokens_details={"cached_tokens": 8, "audio_tokens": 6}),
            Usage(
                input_tokens=10,
                audio_input_tokens=2,
                cached_input_tokens=4,
                cached_audio_input_tokens=4,
                output_tokens=5,
            ),
        ),
        (
            counts(10, 5, 15, completion_tokens_details={"reasoning_tokens": 9, "audio_tokens": 1}),
            Usage(input_tokens=10, output_tokens=5, audio_output_tokens=1, reasoning_tokens=4),
        ),
        # a total that contradicts the reasoning: the larger reading; and one below the sum
        (
            counts(10, 5, 100, completion_tokens_details={"reasoning_tokens": 3}),
            Usage(input_tokens=10, output_tokens=90, reasoning_tokens=3),
        ),
        (counts(10, 5, 3), Usage(input_tokens=10, output_tokens=5)),
        (
            counts(10, 5, prompt_tokens_details=[], completion_tokens_details="x"),
            Usage(input_tokens=10, output_tokens=5),
        ),
        (counts(10, 5, prompt_tokens_details={"cached_tokens": "many"}), Usage(input_tokens=10, output_tokens=5)),
        (counts(10, None), Usage(input_tokens=10)),
    ],
)
def test_contradictions_cost_no_answer(usage: dict[str, Any], expected: Usage) -> None:
    assert read(usage) == expected


@pytest.mark.parametrize(
    "usage",
    [None, {}, [], "many", 5, counts(None, None), counts(-1, 5), counts(5, -1),
     counts(MAX_COUNT + 1, 5), counts(10, MAX_COUNT, 10**12), counts("x", 5), counts([], {}), {"total_tokens": -4}],
)  # fmt: skip
def test_nonsense_is_no_report(usage: Any) -> None:
    assert read(usage) is None


@pytest.mark.parametrize(
    ("inputs", "usage"),
    [
        # text is cached first, then pictures and video, and sound last
        ({"cached_tokens": 30, "audio_tokens": 60}, {"cached_input_tokens": 30, "audio_input_tokens": 60}),
        (
            {"cached_tokens": 50, "audio_tokens": 60},
            {"cached_input_tokens": 40, "cached_audio_input_tokens": 10, "audio_input_tokens": 50},
        ),
        (
            {"cached_tokens": 50, "audio_tokens": 30, "image_tokens": 40},
            {"cached_input_tokens": 50, "audio_input_tokens": 30, "image_input_tokens": 20},
        ),
        (
            {"cached_tokens": 50, "cached_tokens_details": {"text_tokens": 20, "audio_tokens": 30}, "audio_tokens": 60},
            {"cached_input_tokens": 20, "cached_audio_input_tokens": 30, "audio_input_tokens": 30},
        ),
        (
            {"cached_tokens": 9, "cached_tokens_details": {"audio_tokens": 4, "image_tokens": 5}, "image_tokens": 6}
            | {"audio_tokens": 7, "video_tokens": 8},
            {"cached_audio_input_tokens": 4, "cached_image_input_tokens": 5, "audio_input_tokens": 3}
            | {"image_input_tokens": 1, "video_input_tokens": 8},
        ),
        ({"cached_tokens": 100, "cached_tokens_details": {"audio_tokens": 900}}, {"cached_input_tokens": 100}),
    ],
)
def test_what_was_cached_is_in_one_class(inputs: dict[str, Any], usage: dict[str, int]) -> None:
    expected = Usage(input_tokens=100, output_tokens=5, **usage)
    assert read(counts(100, 5, 105, prompt_tokens_details=inputs)) == expected
    named = {"input_tokens": 100, "input_tokens_details": inputs, "output_tokens": 5, "total_tokens": 105}
    assert read(named) == expected


@pytest.mark.parametrize(
    ("fields", "anomalies"),
    [
        (counts(10, 5, 15), ()),
        (counts(10, 5, 15, prompt_cache_miss_tokens=10, queue_time=0.1), ()),
        (counts(10, 5, 100), (("total", MORE_IN_TOTAL),)),
        (counts(10, 5, 3), (("total", "total_tokens"),)),
        (counts(10, 5, 18, completion_tokens_details={"reasoning_tokens": 3}), ()),
        (counts(10, 5, 15, prompt_tokens_details={"cached_tokens": 11}), (("total", "prompt_tokens_details"),)),
        (
            counts(10, 5, 15, completion_tokens_details={"reasoning_tokens": 4, "audio_tokens": 2}),
            (("total", "completion_tokens_details"),),
        ),
        (counts(10, 5, 15, tool_tokens=7, tokens_per_second=9.5), (("field", "tool_tokens"),)),
        (
            counts(10, 5, 15, prompt_tokens_details={"smell_tokens": 2, "taste_tokens": 0}),
            (("field", "prompt_tokens_details.smell_tokens"),),
        ),
    ],
)
def test_what_can_t_be_placed_is_an_anomaly(fields: dict[str, Any], anomalies: tuple[tuple[str, str], ...]) -> None:
    body = json.dumps({"choices": [], "usage": fields}).encode()
    for reported in (usage_from_json(CHAT, body), OpenAIEvents().facts(body).reported):
        assert reported is not None
        assert reported.anomalies == anomalies


def test_usage_is_missing() -> None:
    assert usage_from_json(CHAT, b"{}") is None
    assert usage_from_json(EMBEDDINGS, b'{"data":[],"usage":null}') is None


def test_odd_names_of_tier_and_model_are_left_out() -> None:
    reported = usage_from_json(CHAT, b'{"usage":{"prompt_tokens":1},"service_tier":5,"model":{}}')
    assert reported is not None
    assert (reported.service_tier, reported.model) == (None, None)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'"x"', b'{"usage":', b'{"a":1} {', b"\xff", b"{" * 100_000]
)
def test_garbage(body: bytes) -> None:
    assert decoded(ANSWER, body) is None
    with pytest.raises(GarbageAnswer):
        usage_from_json(CHAT, body)


def test_a_whole_object_is_an_answer() -> None:
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
def test_no_counts_make_it_fail(usage: dict[str, Any]) -> None:
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
def test_usage_that_is_plain_is_read_as_all_other(prompt: int, output: int, off: int, more: dict[str, Any]) -> None:
    """A whole answer's usage is read in one go where it is as OpenAI writes it; an event's never is."""
    body = json.dumps({"usage": counts(prompt, output, prompt + output + off, **more)}).encode()
    assert usage_from_json(CHAT, body) == EVENTS.facts(body).reported


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}, Usage(input_tokens=10, output_tokens=5)),
        ({"input_tokens": 10, "output_tokens": 5}, Usage(input_tokens=10, output_tokens=5)),
        (
            {"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 10, "output_tokens": 5},
            Usage(input_tokens=10, output_tokens=5),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "input_tokens": 99, "output_tokens": 99},
            Usage(input_tokens=10, output_tokens=5),
        ),
        # As the Responses API: details within.
        (
            {
                "input_tokens": 10,
                "output_tokens": 5,
                "total_tokens": 15,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(input_tokens=10, cached_input_tokens=4, output_tokens=5, reasoning_tokens=3),
        ),
        # As Anthropic: the cache beside them.
        (
            {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20},
            Usage(input_tokens=130, cached_input_tokens=100, cache_write_tokens=20, output_tokens=5),
        ),
        (
            {"input_tokens": 130, "output_tokens": 5, "total_tokens": 135, "cache_read_input_tokens": 100},
            Usage(input_tokens=130, cached_input_tokens=100, output_tokens=5),
        ),
        (
            {"input_tokens": 30, "output_tokens": 5, "total_tokens": 135, "cache_read_input_tokens": 100},
            Usage(input_tokens=130, cached_input_tokens=100, output_tokens=5),
        ),
        (
            {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": "?"},
            Usage(input_tokens=10, output_tokens=5),
        ),
        ({"input_tokens": 0, "output_tokens": 0}, Usage()),
        ({"input_tokens": -1, "output_tokens": 5}, None),
    ],
)
def test_counts_by_the_names_of_other_apis(counts: dict[str, Any], expected: Usage | None) -> None:
    body = json.dumps({"choices": [], "usage": counts}).encode()
    reported = usage_from_json("/v1/chat/completions", body)
    assert (reported and reported.usage) == expected
    assert (found := OpenAIEvents().facts(body).reported) == reported, found


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ('"cost": 0.00014095', "0.00014095"),
        ('"cost": 1.5e-05', "0.000015"),
        ('"cost": 0', "0"),
        ('"cost": 0.1, "is_byok": true, "cost_details": {"upstream_inference_cost": 0.2}', "0.3"),
        ('"cost": 0.1, "is_byok": false, "cost_details": {"upstream_inference_cost": 0.2}', "0.1"),
        ('"cost": 0.1, "is_byok": true, "cost_details": {"upstream_inference_cost": null}', "0.1"),
        ('"cost": 1e-30', "0.000000000000000000000001"),
        ('"cost": null', None),
        ('"cost": -1', None),
        ('"cost": 1e9', None),
        ('"cost": "free"', None),
        ('"cost": {"total_cost": 0.006, "request_cost": 0.005}', "0.006"),
        ('"cost": {"total_cost": null}', None),
        ('"cost": {"total_cost": "1"}', None),
        ('"cost_in_usd_ticks": 37756000', "0.0037756000"),
        ('"cost_in_usd_ticks": null, "cost": null', None),
        ('"cost": 1e-999999999', "0.000000000000000000000001"),
        ('"cost": 1e999999999', None),
        ('"cost": 0e-999999999', "0.000000000000000000000000"),
        ('"cost": 999999.9999999999999999999999999999', "1000000.000000000000000000000000"),
        ('"cost": 0.1, "is_byok": true, "cost_details": []', None),
    ],
)
def test_a_cost_is_read_from_its_text(fields: str, cost: str | None) -> None:
    body = f'{{"usage": {{"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, {fields}}}}}'
    reported = usage_from_json("/v1/chat/completions", body.encode())
    assert reported is not None
    assert reported.usage.reported_cost_usd == cost
    assert (reported.usage.input_tokens, reported.usage.output_tokens) == (3, 4)
