"""Each token that a provider counts is in exactly one class, whatever its details contain."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.billing.usages import usage_lines
from tests.gateway.dialects.answers import Answer, chat, gemini, message, response
from tests.gateway.dialects.readers import READERS

COUNT = st.integers(0, 5_000)
ODD = st.one_of(COUNT, st.sampled_from([None, -3, 10**7]))


def tokens(api: str, usage: dict[str, Any]) -> tuple[int, int]:
    """Return how many tokens of input and of output the lines of an answer have."""
    reported = READERS[api](Answer("", "", "", api, usage).text)
    assert reported is not None, usage
    lines = usage_lines("p", "m", reported.usage, reported.others)
    counted = [line for line in lines if line.price_class not in ("request", "search")]
    assert all(line.quantity > 0 for line in lines)
    read = {line.price_class: line.quantity for line in counted}
    assert len(read) == len(counted)
    output = sum(count for name, count in read.items() if "output" in name or name == "reasoning")
    return sum(read.values()) - output, output


INPUTS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("cached_tokens", "audio_tokens", "cache_write_tokens", "text_tokens", "image_tokens"), ODD),
)
OUTPUTS = st.fixed_dictionaries({}, optional=dict.fromkeys(("reasoning_tokens", "audio_tokens", "image_tokens"), ODD))


@settings(max_examples=60)
@given(COUNT, st.integers(1, 5_000), INPUTS, OUTPUTS)
def test_of_a_chat(prompt, completion, inputs, outputs):
    usage = chat(prompt, completion, inputs, outputs)
    assert tokens("chat", usage) == (prompt, completion)
    beside = {**usage, "total_tokens": prompt + completion + 17}
    assert sum(tokens("chat", beside)) == prompt + completion + 17
    named = {"input_tokens": prompt, "input_tokens_details": inputs, "output_tokens": completion}
    assert tokens("responses", {**named, "output_tokens_details": outputs, "total_tokens": prompt + completion}) == (
        prompt,
        completion,
    )


@settings(max_examples=40)
@given(COUNT, st.integers(1, 5_000), COUNT, COUNT, COUNT, ODD)
def test_of_a_message(prompt, output, read, minutes, hour, thought):
    usage = message(prompt, output, read, minutes, hour, output_tokens_details={"thinking_tokens": thought})
    assert tokens("messages", usage) == (prompt + read + minutes + hour, output)
    assert tokens("messages", {**usage, "cache_creation": None}) == (prompt + read + minutes + hour, output)


MODALITIES = st.lists(
    st.builds(
        lambda name, count: {"modality": name, "tokenCount": count},
        st.sampled_from(["TEXT", "IMAGE", "AUDIO", "VIDEO", "DOCUMENT", "SMELL"]),
        ODD,
    ),
    max_size=5,
)


@settings(max_examples=60)
@given(st.tuples(COUNT, st.integers(1, 5_000), st.integers(0, 9_000), COUNT), ODD, st.tuples(*[MODALITIES] * 3))
def test_of_gemini(totals, cached, details):
    prompt, written, thoughts, tools = totals[0] or 1, *totals[1:]
    usage = gemini(prompt, written, thoughts, tools, cachedContentTokenCount=cached)
    usage |= dict(zip(("promptTokensDetails", "cacheTokensDetails", "candidatesTokensDetails"), details, strict=True))
    assert tokens("gemini", usage) == (prompt + tools, written + thoughts)
    del usage["totalTokenCount"]
    assert tokens("gemini", usage) == (prompt + tools, written + thoughts)


def test_of_a_plain_answer_without_any_details():
    assert tokens("responses", response(3, 4)) == (3, 4)
    assert tokens("messages", json.loads('{"input_tokens": 3, "output_tokens": 4}')) == (3, 4)
