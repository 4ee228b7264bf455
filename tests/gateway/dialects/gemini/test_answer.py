"""What an answer of Gemini's reports as used, and what was written in it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects.body import GarbageAnswer
from gateway.dialects.gemini.answer import _plain_usage
from gateway.dialects.output import Inline
from tests.gateway.dialects.gemini.support import DIALECT, MODEL, answer, body_of, candidate, counts
from tests.support.tables import Tables

TABLES = Tables(__file__)

OPERATION = "v1beta:generateContent"


def usage_of(value: object, operation: str = OPERATION) -> Usage | None:
    reported = DIALECT.usage_from_json(operation, body_of(value))
    return None if reported is None else reported.usage


def of(modality: str, tokens: int) -> dict[str, Any]:
    return {"modality": modality, "tokenCount": tokens}


@TABLES.each("counts_become_disjoint_parts")
def test_counts_become_disjoint_parts(metadata, usage):
    empty = answer(candidate(None, "SAFETY"), usage=metadata)
    assert usage_of(empty) == usage


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "promptTokenCount": st.integers(0, 20),
            "candidatesTokenCount": st.one_of(st.integers(0, 20), st.just(2**31)),
            "thoughtsTokenCount": st.one_of(st.none(), st.integers(-1, 9)),
            "cachedContentTokenCount": st.integers(0, 9),
            "promptTokensDetails": st.sampled_from([[], [of("TEXT", 5)], [of("AUDIO", 5)], [of("TEXT", 2)] * 2, "x"]),
            "candidatesTokensDetails": st.sampled_from([[of("TEXT", 5)], [of("IMAGE", 5)], [of("NEW", 5)], [5]]),
        },
    ),
    st.integers(-1, 1),
)
def test_plain_usage_is_what_any_usage_is(metadata, more):
    total = more + sum(each for name, each in metadata.items() if name.endswith("Count") and each) if metadata else None
    metadata = {**metadata, "totalTokenCount": total}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.dialects.gemini.answer._plain_usage", lambda _: None)
        general = DIALECT.usage_from_json(OPERATION, body_of(answer(usage=metadata)))
    assert DIALECT.usage_from_json(OPERATION, body_of(answer(usage=metadata))) == general


def test_plain_usage_is_told():
    details = {"promptTokensDetails": [of("TEXT", 10)], "candidatesTokensDetails": [of("TEXT", 5)]}
    used = counts(10, 5, thoughtsTokenCount=3, totalTokenCount=18, **details)
    assert _plain_usage(used) == Usage(10, 8, reasoning_tokens=3)
    assert _plain_usage(used | {"totalTokenCount": 19}) is None


def test_zeros_are_a_report_of_nothing():
    assert usage_of({"candidates": [candidate()], "usageMetadata": {"promptTokenCount": 0}}) == Usage()
    grounded = candidate(groundingMetadata={"webSearchQueries": ["a"]})
    assert usage_of({"candidates": [grounded], "usageMetadata": {"promptTokenCount": 0}}) is None


@TABLES.each("what_can_t_be_placed_is_an_anomaly")
def test_what_can_t_be_placed_is_an_anomaly(metadata, anomalies):
    reported = DIALECT.usage_from_json(OPERATION, body_of(answer(usage=metadata)))
    assert reported.anomalies == anomalies


@pytest.mark.parametrize("metadata", [{}, {"promptTokenCount": 2**31}, {"promptTokenCount": "10"}, [], "text", 5])
def test_counts_that_can_t_be_are_no_report(metadata):
    assert usage_of({"candidates": [candidate()], "usageMetadata": metadata}) is None


def test_a_blocked_prompt_costs_its_input():
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": counts(10, 0)}
    assert usage_of(blocked) == Usage(10, 0)
    assert DIALECT.output(body_of({"promptFeedback": {"blockReason": "SAFETY"}})).known


def test_what_was_written_and_not_counted_is_no_report():
    assert usage_of(answer(usage=counts(10, 0))) is None


@pytest.mark.parametrize(("model", "searches"), [("gemini-2.5-flash", 1), ("gemini-3-pro", 3)])
def test_searches_are_counted(model, searches):
    """Each that differs and is not empty, but for models before Gemini 3; their results are billed by the search."""
    grounded = candidate(groundingMetadata={"webSearchQueries": ["", "a", "b", "a", "", "c"]})
    body = answer(grounded, usage=counts(10, 5, toolUsePromptTokenCount=1000, totalTokenCount=1015))
    assert usage_of({**body, "modelVersion": model}) == Usage(10, 5, searches=searches)


def test_pages_are_no_searches():
    read = candidate(
        urlContextMetadata={"urlMetadata": []}, groundingMetadata={"groundingChunks": [{"web": {"uri": "https://a"}}]}
    )
    body = answer(read, usage=counts(10, 5, toolUsePromptTokenCount=1000, totalTokenCount=1015))
    assert usage_of(body) == Usage(1010, 5)


@TABLES.each("the_served_tier_and_model_are_the_answer_s")
def test_the_served_tier_and_model_are_the_answer_s(fields, tier):
    reported = DIALECT.usage_from_json(OPERATION, body_of(answer(usage=counts(**fields))))
    assert (reported.service_tier, reported.model) == (tier, MODEL)


def test_embeddings():
    body = {"embeddings": [{"values": [0.5]}], "usageMetadata": {"promptTokenCount": 4}}
    assert usage_of(body, "v1:batchEmbedContents") == Usage(4, 0)
    assert usage_of({"embedding": {}, "usageMetadata": {"totalTokenCount": 4}}, "v1:embedContent") == Usage(4, 0)
    assert usage_of({"embedding": {"values": [0.5]}}, "v1:embedContent") is None
    assert usage_of({"totalTokens": 4}, "v1:countTokens") == Usage()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"candidates":[', b"5"])
def test_garbage_is_no_answer(body):
    with pytest.raises(GarbageAnswer):
        DIALECT.usage_from_json(OPERATION, body)


def test_what_was_written():
    parts = [
        {"text": "Thinking.", "thought": True},
        {"text": "Good.", "thoughtSignature": "x" * 500},
        {"functionCall": {"name": "f", "args": {"a": 1}}},
        {"inlineData": {"mimeType": "image/png", "data": "A" * 400}},
        {"text": ""},
    ]
    output = DIALECT.output(body_of({"candidates": [{"content": {"parts": parts}}, candidate("Second.", index=1)]}))
    assert output.text == 'Thinking.Good.{"name":"f","args":{"a":1}}Second.'
    assert output.inline == (Inline("image", 400),)
    assert (output.known, output.failed) == (True, False)
    assert DIALECT.output(body_of({"error": {"code": 500}})).failed
    assert not DIALECT.output(b"{}").known
    assert DIALECT.output_of_part(b'{"candidates":[{"content":{"parts":[{"text":"Good d').text == "Good d"


_NUMBERS = st.one_of(st.integers(-5, 2**31 + 5), st.none(), st.booleans(), st.text(max_size=3), st.floats())
_DETAILS = st.lists(
    st.fixed_dictionaries(
        {"modality": st.sampled_from(["TEXT", "AUDIO", "IMAGE", "VIDEO", "X"]), "tokenCount": _NUMBERS}
    ),
    max_size=4,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "promptTokenCount",
                "candidatesTokenCount",
                "thoughtsTokenCount",
                "cachedContentTokenCount",
                "toolUsePromptTokenCount",
                "totalTokenCount",
            ]
        ),
        _NUMBERS,
    ),
    st.dictionaries(
        st.sampled_from(["promptTokensDetails", "cacheTokensDetails", "candidatesTokensDetails", "serviceTier"]),
        _DETAILS,
    ),
)
def test_no_counts_break_it(totals, details):
    """What is reported is never below the prompt and the answer that were counted, and its parts add up."""
    metadata = {**totals, **details}
    try:
        body = msgspec.json.encode({"usageMetadata": metadata})
    except msgspec.EncodeError:
        return
    usage = usage_of(body)
    if usage is not None:
        prompt, written = (
            value if type(value := totals.get(name)) is int and value > 0 else 0
            for name in ("promptTokenCount", "candidatesTokenCount")
        )
        assert usage.input_tokens >= prompt
        assert usage.output_tokens >= written
