"""Streams, from hold to settlement: byte for byte, cut, silent, garbage. After each: the exact debit, nothing held."""

import asyncio
import gzip
import json

import aiohttp
import pytest
from aiohttp import web

from billing.database.connection import DatabaseUnavailable
from billing.holds.redis.layout import SETTLED
from billing.money import parse_usd
from gateway.tokens import O200K
from tests.gateway.conftest import chat
from tests.support.answering import (
    BOUND_S,
    DONE,
    SSE,
    WORDS,
    Gate,
    Provider,
    answer,
    bytes_then_close,
    delta,
    peer,
    saying,
    streaming,
    until,
    usage,
    usage_chunk,
)
from tests.support.gateways import (
    INPUT,
    OUTPUT,
    ask,
    asking,
    assert_free,
    head,
    journal,
    raw,
    refusal,
    spent_nano,
    the_event,
)
from tests.support.passed_answers import STREAM, estimate_nano

pytestmark = pytest.mark.slow

HTML = b"<html><body><h1>It works!</h1></body></html>"


async def test_a_stream_passes_byte_for_byte_but_for_the_usage_that_we_asked_for(gateway_of):
    odd = b': comment\r\n\r\nevent: x\nid: 1\ndata: {"choices": [],  "odd": true}\n\n'
    provider = Provider(streaming(odd, *WORDS, usage_chunk(), DONE))
    gateway = await gateway_of(provider.serve)
    for options, expected in (
        ({}, (odd, *WORDS, DONE)),
        ({"stream_options": {"include_usage": False}}, (odd, *WORDS, DONE)),
        ({"stream_options": {"include_usage": True}}, (odd, *WORDS, usage_chunk(), DONE)),
    ):
        customer = await gateway.customer()
        fetched = await ask(customer, {**STREAM, **options})
        assert (fetched.body, fetched.cut) == (b"".join(expected), False)
        assert fetched.headers["Content-Type"] == SSE["Content-Type"]
        await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_any_cut_of_the_provider_s_writes_gives_the_same_bytes(customer_of):
    whole = b"".join((*WORDS, usage_chunk(), DONE))
    provider = Provider(streaming(whole))
    customer = await customer_of(provider.serve)
    spent = 0
    for size in (1, 7, 50, len(whole)):
        provider.reply = streaming(*(whole[at : at + size] for at in range(0, len(whole), size)))
        fetched = await ask(customer, STREAM)
        assert fetched.body == b"".join((*WORDS, DONE))
        spent += 10 * INPUT + 5 * OUTPUT
    assert await spent_nano(customer) == spent


async def test_the_cost_is_told_to_who_asks(customer_of):
    provider = Provider(streaming(*WORDS, usage_chunk(1000, 7), DONE))
    customer = await customer_of(provider.serve)
    cost = "0.0001542"
    assert parse_usd(cost) == 1000 * INPUT + 7 * OUTPUT
    with_charge = usage_chunk(1000, 7, cost_usd=cost, charge_usd=cost)
    for fields in ({}, {"stream_options": {"include_usage": True}}):
        fetched = await ask(customer, {**STREAM, **fields}, headers={"x-metergate-include-cost": "true"})
        assert fetched.body == b"".join((*WORDS, with_charge, DONE))
    plain = await ask(customer, STREAM, headers={"x-metergate-include-cost": "false"})
    assert plain.body == b"".join((*WORDS, DONE))


async def test_an_answer_has_ended_only_when_its_debit_is_safe(make_gateway, upstream):
    provider = Provider(streaming(*WORDS, usage_chunk(), DONE))
    gateway = await make_gateway(await upstream(provider.serve), ledger_flush_ms=10_000)
    customer = await gateway.customer()
    for body in (STREAM, chat(model="gpt-4o-mini")):
        fetched = await ask(customer, body)
        entry = (await journal(gateway))[fetched.headers["x-request-id"]]
        assert entry.state == SETTLED
        provider.reply = saying(answer())
    assert await spent_nano(customer) == 2 * (10 * INPUT + 5 * OUTPUT)


async def test_the_end_waits_for_the_settlement(make_gateway, upstream):
    gate = Gate(saying(b""))

    async def reply(request):
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        await response.write(WORDS[0])
        await gate.opened.wait()
        await response.write(b"".join((*WORDS[1:], usage_chunk(), DONE)))
        await response.write_eof()
        gate.came += 1
        return response

    gateway = await make_gateway(await upstream(reply), settle_timeout_ms=60_000, redis_timeout_ms=60_000)
    customer = await gateway.customer()
    got = bytearray()
    async with asyncio.timeout(BOUND_S), customer.post(body=STREAM) as response:
        got += await response.content.readuntil(b"\n\n")
        await gateway.runtime.redis_client.command("CLIENT", "PAUSE", 60_000, "WRITE")
        try:
            gate.opened.set()
            got += await response.content.readuntil(WORDS[3])
            await gate.reached()  # the provider has said everything
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await response.content.readany()
        finally:
            await gateway.runtime.redis_client.command("CLIENT", "UNPAUSE")
        got += await response.content.read()
    assert bytes(got) == b"".join((*WORDS, DONE))
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_settlement_that_redis_does_not_confirm_goes_to_postgres(make_gateway, upstream):
    gate = Gate(streaming(*WORDS, usage_chunk(), DONE))
    gateway = await make_gateway(await upstream(gate.serve), settle_timeout_ms=1_000, redis_timeout_ms=1_000)
    customer = await gateway.customer()
    running = asking(customer, STREAM)
    await gate.reached()
    await gateway.runtime.redis_client.command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        gate.opened.set()
        fetched = await running
        count = await gateway.runtime.database.value("SELECT count(*) FROM usage_events")
        assert count == 1  # in the ledger by the time that the client has the end
    finally:
        await gateway.runtime.redis_client.command("CLIENT", "UNPAUSE")
    assert fetched.body == b"".join((*WORDS, DONE))

    async def told():
        return parse_usd((await customer.balance())["balance_usd"]) == parse_usd("5.00") - 10 * INPUT - 5 * OUTPUT

    await until(told)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_stream_that_is_cut_is_aborted_and_estimated(gateway_of, tokenizer):
    provider = Provider(streaming(*WORDS[:3], cut=True))
    gateway = await gateway_of(provider.serve)
    for reply in (provider.reply, streaming(*WORDS[:3])):  # broken off, and ended without saying so
        provider.reply = reply
        customer = await gateway.customer()
        fetched = await ask(customer, STREAM)
        assert (fetched.status, fetched.cut) == (200, True)
        assert b"".join(WORDS[:3]).startswith(fetched.body)
        found = await the_event(customer, estimate_nano(tokenizer, "Good day, friend."))
        assert found["estimated"] is True
        assert found["output_tokens"] == tokenizer.count("Good day, friend.", O200K)


async def test_a_stream_that_is_cut_after_its_usage_is_charged_by_it(customer_of):
    customer = await customer_of(streaming(*WORDS, usage_chunk(), cut=True))
    fetched = await ask(customer, STREAM)
    assert DONE not in fetched.body
    found = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    assert found["estimated"] is False


async def test_a_stream_may_end_with_its_finish_reason(customer_of):
    """Some providers send no `[DONE]`; and some repeat their usage, which grows and is never added up."""
    grown = [delta("x", usage=usage(10, count)) for count in (1, 2)]
    customer = await customer_of(streaming(*grown, delta(finish="stop", usage=usage(10, 3))))
    fetched = await ask(customer, STREAM)
    assert (fetched.body, fetched.cut) == (b"".join((*grown, delta(finish="stop", usage=usage(10, 3)))), False)
    await the_event(customer, 10 * INPUT + 3 * OUTPUT)


async def test_a_debit_that_can_t_leave_ends_no_answer_and_is_not_lost(make_gateway, upstream, monkeypatch):
    provider = Provider(saying(b""))
    gateway = await make_gateway(
        await upstream(provider.serve), settle_timeout_ms=1_000, redis_timeout_ms=1_000, postgres_timeout_s=2
    )
    customer = await gateway.customer()
    command = gateway.runtime.redis_client.command

    async def away(*_):
        raise DatabaseUnavailable("Postgres is away")

    async def without_stores(then, body):
        gate = Gate(then)
        provider.reply = gate.serve
        running = asking(customer, body)
        await gate.reached()
        await command("CLIENT", "PAUSE", 60_000, "WRITE")
        try:
            with monkeypatch.context() as patched:
                patched.setattr("billing.holds.debit_writer.write_batch", away)
                gate.opened.set()
                return await running
        finally:
            await command("CLIENT", "UNPAUSE")
            await until(lambda: not gateway.runtime.engine.holds.live)

    refused = await without_stores(saying(answer()), chat(model="gpt-4o-mini"))
    assert "may still be charged" in refusal(refused, 503, "temporarily_unavailable")["message"]
    assert refused.headers["x-should-retry"] == "false"  # by itself: it would pay twice
    fetched = await without_stores(streaming(*WORDS, usage_chunk(), DONE), STREAM)
    assert (fetched.status, fetched.cut) == (200, True)
    assert DONE not in fetched.body

    async def told():
        return parse_usd((await customer.balance())["balance_usd"]) == parse_usd("5.00") - 2 * (10 * INPUT + 5 * OUTPUT)

    await until(told)
    events = await customer.events()
    assert len(events) == 2
    assert refused.headers["x-request-id"] in {event["id"] for event in events}  # as the refusal says


async def test_a_stream_that_falls_silent_is_aborted_and_estimated(customer_of, tokenizer):
    async def reply(request):
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        await response.write(WORDS[0])
        await until(lambda: request.transport is None)
        return response

    customer = await customer_of(reply, upstream_timeout_s=1)
    fetched = await ask(customer, STREAM)
    assert (fetched.body, fetched.cut) == (WORDS[0], True)
    await the_event(customer, estimate_nano(tokenizer, "Good"))


async def test_to_http_1_0_a_cut_is_a_reset(gateway_of):
    """Its body ends where the connection ends: an orderly close would say that this was all."""
    provider = Provider(streaming(*WORDS, usage_chunk(), DONE))
    gateway = await gateway_of(provider.serve)
    customer = await gateway.customer()
    body = json.dumps(STREAM).encode()
    request = head(customer, f"Content-Length: {len(body)}", version="1.0") + body
    answer = await raw(gateway, request)
    assert (answer.status, answer.reset, answer.body) == (200, False, b"".join((*WORDS, DONE)))
    provider.reply = streaming(*WORDS[:3], cut=True)
    answer = await raw(gateway, request)
    assert (answer.status, answer.reset) == (200, True)
    assert await spent_nano(customer) > 10 * INPUT + 5 * OUTPUT
    assert [event["estimated"] for event in await customer.events()] == [False, True]


async def test_a_stream_of_garbage_never_ends_well_and_is_free(customer_of):
    provider = Provider(saying(b""))
    customer = await customer_of(provider.serve)
    for pieces in (
        (HTML,),
        (b"data: {half\n\n", b"data: [1,2\n\n"),
        (b"\x00\xff" * 1000,),
        (b"data: \n\n", b"\n\n\n"),
        (b'data: {"choices": "none"}\n\n',),
        (b'data: {"choices": [null, 1, {"delta": []}]}\n\n',),
    ):
        provider.reply = streaming(*pieces)
        fetched = await ask(customer, STREAM)
        assert (fetched.status, fetched.cut) in ((200, True), (502, False)), pieces  # 502: nothing of it was passed on
    await assert_free(customer)


async def test_a_stream_that_is_charged_is_never_refused(customer_of):
    """Compressed, all of it is held back until its end is paid for; then it breaks off without one."""
    packed = gzip.compress(b"".join((WORDS[0], usage_chunk())))

    async def reply(request):
        response = web.StreamResponse(headers={**SSE, "Content-Encoding": "gzip"})
        await response.prepare(request)
        await response.write(packed)
        assert request.transport is not None
        request.transport.abort()
        return response

    customer = await customer_of(reply)
    with pytest.raises(aiohttp.ServerDisconnectedError):  # not a 502, which would say that it was free
        await ask(customer, STREAM)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_garbage_within_a_stream_harms_nothing(customer_of):
    pieces = (WORDS[0], b"data: {half\n\n", b"nonsense\n\n", *WORDS[1:], usage_chunk(), DONE)
    customer = await customer_of(streaming(*pieces))
    fetched = await ask(customer, {**STREAM, "stream_options": {"include_usage": True}})
    assert (fetched.body, fetched.cut) == (b"".join(pieces), False)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_usage_that_can_t_be_is_none(gateway_of, tokenizer):
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve)
    for prompt, completion in ((-1, 5), (10, -5), (2**40, 1), (0, 0)):
        for reply, body in (
            (saying(answer("Yes.", usage(prompt, completion))), chat(model="gpt-4o-mini")),
            (streaming(delta("Yes."), delta(finish="stop"), usage_chunk(prompt, completion), DONE), STREAM),
        ):
            provider.reply = reply
            customer = await gateway.customer()
            assert (await ask(customer, body)).status == 200
            found = await the_event(customer, estimate_nano(tokenizer, "Yes."))
            assert found["estimated"] is True


async def test_a_json_answer_to_a_stream_request(customer_of):
    customer = await customer_of(saying(answer()))
    fetched = await ask(customer, STREAM)
    assert fetched.json == answer()
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_stream_that_nobody_asked_for(customer_of):
    pieces = (*WORDS, usage_chunk(), DONE)
    customer = await customer_of(streaming(*pieces, headers={"Content-Type": "Text/Event-Stream"}))
    fetched = await ask(customer)
    assert fetched.body == b"".join(pieces)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_provider_ids_that_are_not_text_are_survived(make_gateway):
    body = json.dumps(answer()).encode()
    odd = b"HTTP/1.1 200 OK\r\nx-request-id: \xff" + b"y" * 4000 + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with peer(bytes_then_close(odd + body)) as base_url:
        gateway = await make_gateway(base_url)
        customer = await gateway.customer()
        fetched = await ask(customer)
    assert fetched.body == body
    found = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    assert len(found["upstream_request_id"]) == 200
