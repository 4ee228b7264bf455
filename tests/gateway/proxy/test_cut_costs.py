"""What a cut answer costs: its input at least, and what passed of it."""

import asyncio
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from billing.pricing import PriceTable
from gateway.config.settings import Settings
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.tokens import O200K
from tests.gateway.conftest import Gateway, chat
from tests.support.answering import (
    BOUND_S,
    DONE,
    WORDS,
    Gate,
    Provider,
    answer,
    delta,
    event,
    saying,
    streaming,
    until,
    usage,
    usage_chunk,
)
from tests.support.clients import Slow, leave, noticed, the_event_in_the_end
from tests.support.gateways import INPUT, OUTPUT, ask, assert_free, spent_nano, the_event
from tests.support.passed_answers import PLAIN, STREAM
from tests.support.unreported_costs import IMAGE_TOKENS, input_nano, pictures

pytestmark = pytest.mark.slow

ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
DATA = "A" * 100_000
PROMPT = "The quick brown fox jumps over the lazy dog. " * 400


def tool(description: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "description": description, "parameters": {}}}


def calls(arguments: str) -> list[dict[str, Any]]:
    called = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Seen."},
    ]


BODIES: dict[str, dict[str, Any]] = {
    "a message": chat(PROMPT),
    "a part": chat([{"type": "text", "text": PROMPT}]),  # type: ignore[arg-type]
    "a tool": chat(tools=[tool(PROMPT)]),
    "a schema": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"title": PROMPT}}}
    ),
    "arguments": chat(messages=calls(json.dumps({"said": PROMPT}))),
    "a field that nobody knows": chat(preamble=PROMPT),
}


async def test_input_costs_the_same_wherever_it_stands(gateway_of, tokenizer):
    provider = Provider(streaming(WORDS[0], cut=True))
    gateway = await gateway_of(provider.serve)
    alone = tokenizer.count(PROMPT, O200K)
    for what, body in BODIES.items():
        customer = await gateway.customer()
        await ask(customer, {**body, "model": "gpt-4o-mini", "stream": True})
        found = await the_event(customer)
        assert alone <= found["input_tokens"] <= alone + 100, what


async def test_pictures_cost_their_bound_each(customer_of):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + DATA}}
    content: Any = [{"type": "text", "text": "What is this?"}, *[picture] * 20]
    customer = await customer_of(streaming(WORDS[0], cut=True), change=pictures)
    await ask(customer, chat(content, model="gpt-4o-mini", stream=True))
    assert 20 * IMAGE_TOKENS <= (await the_event(customer))["input_tokens"] <= 20 * IMAGE_TOKENS + 50


async def test_what_is_no_number_is_counted_as_it_stands():
    body = b'{"messages": [], "tools": [{"function": {"parameters": {"maximum": 1e999}}}]}'
    dialect = OpenAIDialect()
    assert dialect.input_tokens(body, len) == (len(body), [])
    deep = b'{"messages": [], "tools": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert dialect.input_tokens(deep, len) == (len(deep), [])


async def test_a_client_that_leaves_before_the_answer_pays_its_input(gateway_of, tokenizer):
    gone = asyncio.Event()

    async def silent(request):
        reached.set()
        await until(lambda: request.transport is None)
        gone.set()
        return web.Response()

    gateway = await gateway_of(silent, disconnect_drain_s=0.05)
    for body in (PLAIN, STREAM):
        reached = asyncio.Event()
        gone.clear()
        customer = await gateway.customer()
        await leave(customer, body, reached.wait)
        found = await the_event_in_the_end(customer, input_nano(tokenizer, body))
        assert (found["estimated"], found["note"], found["output_tokens"]) == (True, "client_gone", 0)
        async with asyncio.timeout(BOUND_S):
            await gone.wait()  # the provider was stopped


@pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["JSON", "a stream"])
async def test_an_answer_that_comes_after_its_client_has_left_is_charged_by_its_usage(gateway_of, body):
    gate = Gate(saying(answer()) if body is PLAIN else streaming(*WORDS, usage_chunk(), DONE))
    gateway = await gateway_of(gate.serve, disconnect_drain_s=BOUND_S)
    customer = await gateway.customer()
    await leave(customer, body, gate.reached)
    await noticed(gateway)
    gate.opened.set()
    assert (await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT))["estimated"] is False


@pytest.mark.parametrize(
    ("then", "refused"),
    [
        (saying({"error": {}}, 429), True),
        (saying({"error": {}}, 500), True),
        (saying(b"<html>"), False),
        (streaming(cut=True), False),
    ],
    ids=["refused", "failed", "garbage", "an empty stream"],
)
async def test_a_provider_that_refuses_after_the_client_has_left_costs_nothing(gateway_of, then, refused):
    gate = Gate(then)
    gateway = await gateway_of(gate.serve, disconnect_drain_s=BOUND_S)
    customer = await gateway.customer()
    counted = await refusals(gateway)
    await leave(customer, PLAIN, gate.reached)
    await noticed(gateway)
    gate.opened.set()
    await until(lambda: not gateway.runtime.engine.holds.live)
    await assert_free(customer)
    assert (await refusals(gateway) != counted) == refused


async def refusals(gateway: Gateway) -> list[bytes]:
    """What is counted of the provider's refusals."""
    counter = b'metergate_upstream_refusals_total{provider="openai"'
    return [line for line in (await gateway.metrics()).splitlines() if line.startswith(counter)]


async def test_a_part_of_a_json_answer_is_counted(customer_of):
    part = json.dumps(answer(PROMPT, usage())).encode()[:-200]

    async def reply(request):
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(part)
        written.set()
        await until(lambda: request.transport is None)
        return response

    written = asyncio.Event()
    customer = await customer_of(reply, disconnect_drain_s=0.3)
    await leave(customer, PLAIN, written.wait)
    found = await the_event_in_the_end(customer)
    assert (found["estimated"], found["note"]) == (True, "client_gone")
    assert found["output_tokens"] > 3_000


def hiding(settings: Settings) -> Settings:
    """Settings in which gpt-4o-mini does not show all that it bills."""
    rows = [replace(row, hidden_reasoning=row.model == "gpt-4o-mini") for row in settings.prices.rows]
    return replace(settings, prices=PriceTable(rows))


def patient(settings: Settings) -> Settings:
    """Settings in which the provider says how long it is read on."""
    provider = replace(settings.providers["openai"], disconnect_drain_s=BOUND_S)
    return replace(settings, providers={**settings.providers, "openai": provider})


@pytest.mark.parametrize(("change", "drain_s"), [(hiding, BOUND_S), (patient, 0)], ids=["hidden reasoning", "its own"])
async def test_how_long_an_upstream_is_read_on_is_the_model_s_own(gateway_of, change, drain_s):
    reasoned = usage(10, 5_000, completion_tokens_details={"reasoning_tokens": 4_995})
    provider = Slow(ROLE, delta("Yes."), delta(finish="stop"), event({"choices": [], "usage": reasoned}), DONE)
    gateway = await gateway_of(provider.serve, change=change, disconnect_drain_s=0, reasoning_drain_s=drain_s)
    customer = await gateway.customer()
    await leave(customer, STREAM, first=b"assistant")
    await noticed(gateway)
    provider.let.set()
    assert (await the_event_in_the_end(customer, 10 * INPUT + 5_000 * OUTPUT))["estimated"] is False


async def test_an_early_usage_is_not_the_last_word(gateway_of, tokenizer):
    """Neither where the answer was cut, nor where it ended without another one."""
    text = "word " * 2_000
    stale = usage_chunk(10, 1)
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve)
    for pieces, cut in (
        ((ROLE, stale, delta(text)), True),
        ((delta("x", usage=usage(10, 1)) + delta(text),), True),
        ((ROLE, stale, delta(text), delta(finish="stop"), DONE), False),
    ):
        provider.reply = streaming(*pieces, cut=cut)
        customer = await gateway.customer()
        await ask(customer, STREAM)
        found = await the_event(customer)
        assert found["output_tokens"] >= tokenizer.count(text, O200K)
        assert found["estimated"] is True
        assert found["input_tokens"] >= 10


async def test_a_cut_never_costs_less_than_its_input_nor_more_than_its_hold(gateway_of, tokenizer):
    """At any place, with an early usage that says little; the answer is longer than what the client asked for."""
    picked = random.Random(7)  # noqa: S311
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve, disconnect_drain_s=0)
    body = chat("How are you? " * 20, model="gpt-4o-mini", stream=True, max_tokens=60, n=2)
    most = 2 * (len(json.dumps(body)) * INPUT + 60 * OUTPUT)
    words = [delta(f"word{number} " * 5, index=number % 2) for number in range(40)]
    whole = b"".join([ROLE, usage_chunk(picked.randint(0, 5), 1), *words])
    for _ in range(25):
        cut_at = picked.randrange(1, len(whole))
        size = picked.choice([1 << 16, 1 << 16, 100, 17])
        provider.reply = streaming(*(whole[at : min(at + size, cut_at)] for at in range(0, cut_at, size)), cut=True)
        customer = await gateway.customer()
        fetched = await ask(customer, body)
        spent = await spent_nano(customer)
        if fetched.status == 502:  # nothing had passed: a refusal, which is free
            assert spent == 0
            continue
        assert spent <= most, cut_at
        if b"word" in fetched.body:
            assert spent >= input_nano(tokenizer, body) + OUTPUT, cut_at
