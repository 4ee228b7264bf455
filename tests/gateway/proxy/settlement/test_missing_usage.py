"""What an answer without usage is charged: an estimate, the hold, or nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from billing.money import parse_usd
from billing.pricing import PriceRow, PriceTable
from gateway.config.settings import Settings
from gateway.tokens import CL100K, O200K, Tokenizer
from tests.gateway.conftest import Customer, Handler, chat
from tests.support.answering import DONE, WORDS, Provider, answer, delta, event, saying, streaming
from tests.support.gateways import INPUT, OUTPUT, ask, fetch, spent_nano, the_event

TEXT = "Good day, friend."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def replies() -> list[tuple[Handler, dict[str, Any]]]:
    """Answers without usage: whole, streamed to their end, and cut."""
    return [
        (saying(answer(TEXT, {})), {}),
        (streaming(*WORDS, DONE), {"stream": True}),
        (streaming(*WORDS, cut=True), {"stream": True}),
    ]


async def test_an_estimate_counts_what_passed(gateway_of, tokenizer):
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve)
    for reply, fields in replies():
        provider.reply = reply
        customer = await gateway.customer()
        body = chat("How are you? " * 50, model="gpt-4o-mini", **fields)
        await ask(customer, body)
        found = await the_event(customer)
        counted = tokenizer.count_chat_messages(body["messages"], O200K), tokenizer.count(TEXT, O200K)
        assert (found["input_tokens"], found["output_tokens"], found["estimated"]) == (*counted, True)
        assert parse_usd(found["charged_usd"]) == counted[0] * INPUT + counted[1] * OUTPUT


def dearer_parts(settings: Settings) -> Settings:
    """Settings in which some input costs twice, and some output three times what is usual."""
    rates = {"input": INPUT, "cache_write": 2 * INPUT, "output": OUTPUT, "reasoning": 3 * OUTPUT}
    per_million = {name: rate * 10**6 for name, rate in rates.items()}
    row = PriceRow("openai", "gpt-4o-mini", date(2025, 1, 1), per_million, {}, max_output_tokens=1000)
    return replace(settings, prices=PriceTable([*settings.prices.rows, row]))


async def test_the_hold_is_charged_whole(gateway_of):
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve, change=dearer_parts, missing_usage="hold")
    for reply, fields in replies():
        provider.reply = reply
        customer = await gateway.customer()
        body = json.dumps(chat(model="gpt-4o-mini", max_tokens=70, n=2, **fields)).encode()
        await fetch(customer.post(data=body))
        found = await the_event(customer, 2 * len(body) * 2 * INPUT + 2 * 70 * 3 * OUTPUT)
        assert found["estimated"] is True
        assert (found["input_tokens"], found["output_tokens"]) == (2 * len(body), 140)


async def test_free_is_free_and_on_record(gateway_of):
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve, missing_usage="free")
    for reply, fields in replies():
        provider.reply = reply
        customer = await gateway.customer()
        await ask(customer, chat(model="gpt-4o-mini", **fields))
        found = await the_event(customer, 0)
        assert (found["estimated"], found["charged_usd"], found["total_tokens"]) == (True, "0.00", 0)


async def test_usage_that_was_reported_goes_before_any_policy(customer_of):
    customer = await customer_of(saying(answer()), missing_usage="hold")
    await ask(customer)
    assert (await the_event(customer, 10 * INPUT + 5 * OUTPUT))["estimated"] is False


async def test_an_estimate_never_exceeds_its_hold(make_gateway, upstream, tokenizer):
    """Where it is a bound: the provider was told that maximum, whatever our own count of its text says."""
    long = "word " * 2000
    provider = Provider(streaming(delta(long), DONE))
    strict = await make_gateway(await upstream(provider.serve))
    loose = await make_gateway(await upstream(provider.serve), strict=False)
    customer = await strict.customer()
    await ask(customer, chat(model="gpt-4o-mini", max_tokens=50, stream=True))
    assert (await the_event(customer))["output_tokens"] == 50
    customer = await loose.customer()
    await ask(customer, chat(model="gpt-4o-mini", stream=True))
    assert (await the_event(customer))["output_tokens"] == tokenizer.count(long, O200K) > 512


async def test_every_choice_reasoning_and_call_counts(customer_of, tokenizer):
    call = {"index": 0, "function": {"name": "look_up", "arguments": '{"city": "Bern"}'}}
    pieces = (
        delta("One", index=0),
        delta("Two", index=1),
        event({"choices": [{"index": 0, "delta": {"reasoning_content": "Let me think. "}}]}),
        event({"choices": [{"index": 1, "delta": {"tool_calls": [call]}}]}),
        delta(" and more", index=0),
        DONE,
    )
    customer = await customer_of(streaming(*pieces))
    await ask(customer, chat(model="gpt-4o-mini", n=2, stream=True))
    text = 'OneLet me think.  and moreTwolook_up{"city": "Bern"}'
    assert (await the_event(customer))["output_tokens"] == tokenizer.count(text, O200K)


async def test_a_long_text_is_counted_off_the_loop_and_scaled(customer_of, tokenizer):
    """Beyond what the tap keeps, tokens are extrapolated by bytes."""
    piece = "word " * 20_000
    customer = await customer_of(streaming(*[delta(piece)] * 60, DONE), "50.00")
    body = chat(model="gpt-4o-mini", stream=True, max_tokens=128_000, n=40)
    await ask(customer, body)
    assert await spent_nano(customer, "50.00") > 0
    (found,) = await customer.events()
    exact = 60 * tokenizer.count(piece, O200K)
    assert abs(found["output_tokens"] - exact) < exact / 100


INPUTS: list[tuple[str, dict[str, Any], Callable[[Tokenizer], int]]] = [
    ("/v1/completions", {"prompt": "Say it."}, lambda t: t.count("Say it.", O200K)),
    ("/v1/completions", {"prompt": ["Say it.", "Now."]}, lambda t: t.count("Say it.", O200K) + t.count("Now.", O200K)),
    ("/v1/completions", {"prompt": [1, 2, 3]}, lambda t: 3),
    ("/v1/completions", {"prompt": [[1, 2, 3], [4]]}, lambda t: 4),
    ("/v1/embeddings", {"input": "Say it.", "model": "text-embedding-3-small"}, lambda t: t.count("Say it.", CL100K)),
    ("/v1/embeddings", {"input": [[5, 6], [7]], "model": "text-embedding-3-small"}, lambda t: 3),
    ("/v1/embeddings", {"input": [], "model": "text-embedding-3-small"}, lambda t: 0),
    ("/v1/chat/completions", {"messages": []}, lambda t: 3),
    ("/v1/chat/completions", {"messages": [{"content": [{"text": 2}, {"text": "Hi"}]}]}, lambda t: 8),
    ("/v1/chat/completions", {"messages": [{}, {"role": 5}]}, lambda t: 10),
]


async def test_any_input_can_be_estimated(customer_of, tokenizer):
    provider = Provider(saying({"choices": [{"text": "Yes."}]}))
    customer = await customer_of(provider.serve)
    for path, fields, count in INPUTS:
        fetched = await ask(customer, {"model": "gpt-4o-mini", **fields}, path=path)
        assert fetched.status == 200, (fields, fetched.body)
        assert await spent_nano(customer) > 0
        found = (await customer.events())[-1]
        assert (found["input_tokens"], found["estimated"]) == (count(tokenizer), True), fields


async def test_windows_count_what_was_charged(gateway_of):
    gateway = await gateway_of(streaming(*WORDS, DONE))
    quotas = [{"window": "total", "metric": name, "limit": 10**6} for name in ("tokens", "output_tokens", "requests")]
    customer = await gateway.customer(quotas=quotas)
    await ask(customer, chat(model="gpt-4o-mini", stream=True))
    found = await the_event(customer)
    assert await used(customer) == {
        "tokens": found["total_tokens"],
        "output_tokens": found["output_tokens"],
        "requests": 1,
    }


async def used(customer: Customer) -> dict[str, Any]:
    """What the key's own windows count, by metric."""
    windows = (await fetch(customer.get("/v1/key"))).json["windows"]
    return {window["metric"]: window["used"] for window in windows if window["subject"] == "key"}
