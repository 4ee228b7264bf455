"""Streams of vendors that write OpenAI's format in ways of their own: what passes, and what is charged."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.openai.events import OpenAIEvents
from gateway.dialects.streaming import SseTap
from tests.gateway.conftest import chat
from tests.support.answering import DONE, WORDS, Provider, delta, event, streaming, usage, usage_chunk
from tests.support.gateways import INPUT, OUTPUT, ask, the_event

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
FILTERS = event({**HEAD, "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}], "usage": None})
VERDICT = {"results": [{"flagged": False}]}

CASES: dict[str, tuple[tuple[bytes, ...], tuple[bytes, ...]]] = {
    "openai": ((*WORDS, usage_chunk(), DONE), (*WORDS, DONE)),
    "mistral": ((*WORDS[:-1], delta(finish="stop", usage=usage()), DONE),) * 2,
    "groq": ((*WORDS[:-1], delta(finish="stop", x_groq={"id": "r", "usage": usage()}), DONE),) * 2,
    "vllm": (
        (*(delta(text, usage=usage(10, count)) for count, text in enumerate(("Good", " day", "!"), 3)), DONE),
    ) * 2,
    "azure": ((FILTERS, *WORDS, usage_chunk(), DONE), (FILTERS.replace(b',"usage":null', b""), *WORDS, DONE)),
    "moderation": (
        (*WORDS, event({**HEAD, "choices": [], "moderation": VERDICT, "usage": usage()}), DONE),
    ) * 2,
    "usage twice": (
        (*WORDS, usage_chunk(4, 9), usage_chunk(), DONE),
        (*WORDS, DONE),
    ),
}  # fmt: skip


@pytest.mark.parametrize("vendor", CASES)
async def test_the_last_usage_is_charged_and_nothing_of_the_client_s_is_hidden(customer_of, vendor):
    sent, passed = CASES[vendor]
    provider = Provider(streaming(*sent))
    customer = await customer_of(provider.serve)
    fetched = await ask(customer, chat(model="gpt-4o-mini", stream=True, max_tokens=50))
    assert (fetched.status, fetched.body, fetched.cut) == (200, b"".join(passed), False)
    assert provider.sent[0].json["stream_options"] == {"include_usage": True}
    assert not (await the_event(customer, 10 * INPUT + 5 * OUTPUT))["estimated"]


async def test_one_that_does_not_know_stream_options_gets_none(customer_of):
    """And the usage that it reports unasked is the client's, too."""
    sent, provider = (*WORDS, usage_chunk(), DONE), Provider(streaming(*WORDS, usage_chunk(), DONE))

    def unasked(settings):
        own = replace(settings.providers["openai"], stream_usage=False)
        return replace(settings, providers={**settings.providers, "openai": own})

    customer = await customer_of(provider.serve, change=unasked)
    body = chat(model="gpt-4o-mini", stream=True, max_tokens=50)
    assert (await ask(customer, body)).body == b"".join(sent)
    assert "stream_options" not in provider.sent[0].json
    assert not (await the_event(customer, 10 * INPUT + 5 * OUTPUT))["estimated"]
    asked = {**body, "stream_options": {"include_usage": True}}
    assert (await ask(customer, asked)).body == b"".join(sent)
    assert provider.sent[1].json["stream_options"] == {"include_usage": True}


@given(st.sampled_from(sorted(CASES)), st.lists(st.integers(0, 2_000), max_size=30), st.booleans())
def test_any_cutting_gives_the_same_bytes_and_usage(vendor, cuts, crlf):
    sent, passed = (b"".join(events).replace(b"\n", b"\r\n" if crlf else b"\n") for events in CASES[vendor])
    tap = SseTap(OpenAIEvents(), strip_usage=True, hold_usage=False)
    bounds = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    taken = b"".join(tap.feed(sent[begin:end]) for begin, end in pairwise(bounds))
    tap.end()
    taken += tap.finish()
    assert tap.reported is not None
    assert (tap.reported.usage.input_tokens, tap.reported.usage.output_tokens) == (10, 5)
    assert tap.done
    assert taken == passed or (crlf and vendor == "azure")
