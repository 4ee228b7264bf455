"""Clients that leave at every moment, and how long their provider is read on."""

import asyncio
import json
from contextlib import suppress

from aiohttp import web

from billing.money import parse_usd
from gateway.proxy.settlement.missing_usage import MissingUsage
from gateway.tokens import O200K
from tests.gateway.conftest import chat
from tests.support.answering import BOUND_S, DONE, WORDS, Provider, answer, delta, saying, streaming, until, usage_chunk
from tests.support.clients import Slow, leave, nothing, noticed, the_event_in_the_end
from tests.support.gateways import INPUT, OUTPUT
from tests.support.passed_answers import STREAM, estimate_nano


async def test_a_client_that_leaves_within_a_whole_answer(make_gateway, upstream):
    """The provider has begun to answer, so its work is done: the client's leaving does not make it free."""
    body = json.dumps(answer()).encode()
    go_on = asyncio.Event()

    async def reply(request):
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[:10])
        await go_on.wait()
        with suppress(ConnectionError):
            await response.write(body[10:])
        return response

    gateway = await make_gateway(await upstream(reply))
    customer = await gateway.customer()

    async def under_way():
        return b'metergate_upstream_latency_seconds_count{provider="openai"} 1.0' in await gateway.metrics()

    await leave(customer, chat(model="gpt-4o-mini"), lambda: until(under_way))
    await noticed(gateway)
    go_on.set()
    await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_client_that_leaves_while_its_tokens_are_counted(make_gateway, upstream, tokenizer, monkeypatch):
    counting, go_on = [], asyncio.Event()
    guess = MissingUsage.guess

    async def slow(*arguments):
        counting.append(arguments)
        await go_on.wait()
        return await guess(*arguments)

    monkeypatch.setattr(MissingUsage, "guess", slow)
    provider = Provider(saying(answer("Good day, friend.", {})))
    gateway = await make_gateway(await upstream(provider.serve))
    for body in (chat(model="gpt-4o-mini"), STREAM):
        counting.clear()
        go_on.clear()
        customer = await gateway.customer()
        await leave(customer, body, lambda: until(lambda: bool(counting)))
        await noticed(gateway)
        go_on.set()
        await the_event_in_the_end(customer, estimate_nano(tokenizer, "Good day, friend."))
        assert len(counting) == 1
        provider.reply = streaming(*WORDS, DONE)


async def test_a_client_that_leaves_within_a_stream(customer_of, tokenizer):
    more = delta(" word" * 1000)
    provider = Slow(WORDS[0], *[more] * 1000, usage_chunk(), DONE)
    customer = await customer_of(provider.serve, disconnect_drain_s=0)
    await leave(customer, STREAM, nothing, first=WORDS[0])
    found = await the_event_in_the_end(customer)
    assert found["estimated"] is True
    await until(lambda: provider.gone or provider.ended)
    assert provider.gone  # stopped, not read to its end
    assert parse_usd(found["charged_usd"]) == estimate_nano(tokenizer, "Good")
    assert found["output_tokens"] >= tokenizer.count("Good", O200K)


async def test_a_client_that_leaves_at_the_end(make_gateway, upstream):
    provider = Slow(b"".join(WORDS), usage_chunk(), DONE)
    gateway = await make_gateway(await upstream(provider.serve), settle_timeout_ms=60_000, redis_timeout_ms=60_000)
    customer = await gateway.customer()

    async def last_chunk():
        await gateway.runtime.redis_client.command("CLIENT", "PAUSE", 60_000, "WRITE")
        provider.let.set()
        await until(lambda: provider.ended)
        await noticed(gateway)

    try:
        await leave(customer, STREAM, last_chunk, first=WORDS[3])
    finally:
        await gateway.runtime.redis_client.command("CLIENT", "UNPAUSE")
    assert (await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT))["estimated"] is False


async def test_draining_reads_the_usage_after_the_client_has_left(gateway_of):
    provider = Slow(WORDS[0], *[delta("word " * 1000)] * 1000, usage_chunk(), DONE)
    gateway = await gateway_of(provider.serve, disconnect_drain_s=BOUND_S)
    customer = await gateway.customer()
    await leave(customer, STREAM, nothing, first=WORDS[0])
    await noticed(gateway)
    provider.let.set()
    found = await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT)
    assert found["estimated"] is False
    assert provider.ended


async def test_draining_ends_in_time(customer_of, tokenizer):
    provider = Slow(WORDS[0], DONE)
    customer = await customer_of(provider.serve, disconnect_drain_s=0.1)
    await leave(customer, STREAM, nothing, first=WORDS[0])
    await the_event_in_the_end(customer, estimate_nano(tokenizer, "Good"))
    await until(lambda: provider.gone or provider.ended)


async def test_a_drain_goes_on_while_the_gateway_stops(make_gateway, upstream, tokenizer):
    provider = Slow(WORDS[0], DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=600)
    customer = await gateway.customer()
    await leave(customer, STREAM, nothing, first=WORDS[0])
    await noticed(gateway)
    stopping = asyncio.create_task(gateway.runtime.engine.holds.drain(BOUND_S))
    provider.let.set()
    assert await stopping
    await the_event_in_the_end(customer, estimate_nano(tokenizer, "Good"))
