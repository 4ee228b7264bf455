"""From hold to settlement, through a whole gateway: providers that misbehave in every way, clients that leave at every
moment, and streams byte for byte. After each: the right answer, the exact debit, nothing held."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from billing.database.connection import DatabaseUnavailable
from billing.holds.redis.layout import SETTLED
from billing.money import parse_usd
from gateway.proxy.missing_usage import MissingUsage
from gateway.tokens import O200K, Tokenizer
from tests.gateway.conftest import Handler, MakeGateway, chat
from tests.support.clients import Slow, leave, nothing, noticed, the_event_in_the_end
from tests.support.gateways import (
    BOUND_S,
    DONE,
    INPUT,
    OUTPUT,
    PROVIDER_KEY,
    SSE,
    WORDS,
    Fetched,
    Gate,
    Peer,
    Provider,
    answer,
    ask,
    asking,
    assert_free,
    bytes_then_close,
    delta,
    event,
    fetch,
    head,
    journal,
    peer,
    raw,
    refusal,
    saying,
    spent_nano,
    streaming,
    take_request,
    the_event,
    until,
    usage,
    usage_chunk,
)

Upstream = Callable[[Handler], Any]

STREAM = chat(model="gpt-4o-mini", stream=True)
HTML = b"<html><body><h1>It works!</h1></body></html>"
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer()
    made.load()
    return made


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def estimate_nano(tokenizer: Tokenizer, text: str, body: dict[str, Any] = STREAM) -> int:
    """What an answer without usage is charged."""
    return tokenizer.count_chat_messages(body["messages"], O200K) * INPUT + tokenizer.count(text, O200K) * OUTPUT


# Providers whose answer is no answer


BAD_ANSWERS: dict[str, Peer] = {
    "garbage": bytes_then_close(b"\x00\x01garbage\r\n\r\n"),
    "nothing": bytes_then_close(),
    "a reset": bytes_then_close(reset=True),
    "half a head": bytes_then_close(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "half a JSON": bytes_then_close(OK_HEAD % 1000, json.dumps(answer()).encode()),
    "half a JSON of its length": bytes_then_close(OK_HEAD % 20, json.dumps(answer()).encode()[:20]),
    "HTML": bytes_then_close(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 44\r\n\r\n" + HTML),
    "an empty body": bytes_then_close(OK_HEAD % 0),
    "a JSON list": bytes_then_close(OK_HEAD % 2, b"[]"),
    "bad chunks": bytes_then_close(
        OK_HEAD.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{"
    ),
    "a redirect": bytes_then_close(
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/steal\r\nContent-Length: 2\r\n\r\n{}"
    ),
    "another 2xx": bytes_then_close(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "spoilt gzip": bytes_then_close(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"
    ),
    "an empty stream": bytes_then_close(SSE_HEAD + b"0\r\n\r\n"),
    "a stream cut before its first byte": bytes_then_close(SSE_HEAD),
}


async def test_answers_that_are_none_are_502_and_free(
    make_gateway: MakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    turn: list[Peer] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await turn[0](reader, writer)

    async with peer(speak) as base_url:
        gateway = await make_gateway(base_url)
        customer = await gateway.customer()
        for what, bad in BAD_ANSWERS.items():
            turn[:] = [bad]
            for body in (chat(model="gpt-4o-mini"), STREAM):
                fetched = await ask(customer, body)
                assert fetched.status == 502, what
                assert refusal(fetched, 502, "upstream_error")["type"] == "server_error"
        await assert_free(customer)
    refusal(await ask(customer), 502, "upstream_error")  # nobody listens there any more
    await assert_free(customer)
    assert "Traceback" not in caplog.text


async def test_a_silent_provider_is_504_and_free(make_gateway: MakeGateway) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await take_request(reader)
        if b"say the head" in request:
            writer.write(SSE_HEAD if b'"stream"' in request else OK_HEAD % 100)
            await writer.drain()
        await reader.read()

    async with peer(silent) as base_url:
        gateway = await make_gateway(base_url, upstream_timeout_s=0.2)
        customer = await gateway.customer()
        for content in ("", "say the head"):
            for fields in ({}, {"stream": True}):
                fetched = await ask(customer, chat(content, model="gpt-4o-mini", **fields))
                refusal(fetched, 504, "upstream_timeout")
        await assert_free(customer)


async def test_a_provider_s_own_refusals_pass_unchanged_and_free(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    said = b'{"error": {"message": "theirs",  "type": "x", "code": null}}'
    for status in (400, 402, 404, 409, 413, 422, 429, 500, 502, 503, 529):
        for stream in (False, True):
            provider.reply = saying(said, status, Retry_After="7", x_request_id="req_1", x_should_retry="true")
            fetched = await ask(customer, chat(model="gpt-4o-mini", stream=stream))
            assert (fetched.status, fetched.body) == (status, said)
            assert fetched.headers["Retry-After"] == "7"
            assert fetched.headers["x-should-retry"] == "true"
            assert fetched.headers["x-upstream-request-id"] == "req_1"
            assert len(fetched.headers["x-request-id"]) == 26
            assert fetched.headers["x-metergate-balance-usd"] == "5.00"
    provider.reply = saying(HTML, 500, Content_Type="text/html")
    fetched = await ask(customer)
    assert (fetched.status, fetched.body, fetched.headers["Content-Type"]) == (500, HTML, "text/html")
    provider.reply = saying(b"", 503)
    assert ((fetched := await ask(customer)).status, fetched.body) == (503, b"")
    await assert_free(customer)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_provider_that_refuses_the_operator_s_key_is_the_operator_s_affair(
    make_gateway: MakeGateway, upstream: Upstream, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    said = {"error": {"message": f"Incorrect API key provided: {PROVIDER_KEY}", "code": "invalid_api_key"}}
    gateway = await make_gateway(await upstream(saying(said, status, x_request_id="req_1", WWW_Authenticate="Bearer")))
    customer = await gateway.customer()
    for stream in (False, True):
        caplog.clear()
        fetched = await ask(customer, chat(model="gpt-4o-mini", stream=stream))
        error = refusal(fetched, 502, "upstream_error")  # and nothing of the provider's text
        assert "this gateway's own key" in error["message"]
        assert fetched.headers["x-should-retry"] == "false"
        assert fetched.headers["x-upstream-request-id"] == "req_1"
        assert fetched.headers["x-metergate-balance-usd"] == "5.00"
        assert "WWW-Authenticate" not in fetched.headers
        (line,) = [record for record in caplog.records if f"answered {status}" in record.getMessage()]
        assert line.levelname == "ERROR"
        for part in (fetched.headers["x-request-id"], "openai", "gpt-4o-mini"):
            assert part in line.getMessage()
    assert PROVIDER_KEY not in caplog.text
    series = f'metergate_upstream_refusals_total{{provider="openai",status="{status}"}} 2.0'
    assert series in (await gateway.metrics()).decode()
    await assert_free(customer)


async def test_what_a_provider_refuses_is_logged_and_counted(
    make_gateway: MakeGateway, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await make_gateway(await upstream(saying({"error": {"message": "a client's secret"}}, 429)))
    customer = await gateway.customer()
    fetched = await ask(customer)
    assert fetched.status == 429
    (line,) = [record for record in caplog.records if "answered 429" in record.getMessage()]
    assert line.levelname == "WARNING"
    for part in (fetched.headers["x-request-id"], "openai", "gpt-4o-mini"):
        assert part in line.getMessage()
    assert "secret" not in caplog.text
    series = 'metergate_upstream_refusals_total{provider="openai",status="429"} 1.0'
    assert series in (await gateway.metrics()).decode()


async def test_an_error_event_that_ends_a_stream_is_passed_on_and_the_stream_ended(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    error = event({"error": {"message": "overloaded", "code": 529}})
    provider = Provider(streaming(error))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    fetched = await ask(customer, STREAM)
    assert (fetched.status, fetched.body, fetched.cut) == (200, error, False)
    provider.reply = streaming(error.rstrip())  # whose last event is not even ended
    fetched = await ask(customer, STREAM)
    assert (fetched.body, fetched.cut) == (error.rstrip(), False)
    await assert_free(customer)  # nothing was written
    provider.reply = streaming(*WORDS[:3], error)
    fetched = await ask(customer, STREAM)
    assert (fetched.body, fetched.cut) == (b"".join(WORDS[:3]) + error, False)
    event_of = await the_event(customer)
    assert (event_of["estimated"], event_of["note"]) == (True, "upstream_cut")
    assert event_of["output_tokens"] == tokenizer.count("Good day, friend.", O200K)
    provider.reply = streaming(*WORDS[:3], error, cut=True)
    assert (await ask(customer, STREAM)).cut


async def test_usage_that_the_client_did_not_ask_for_does_not_reach_it(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    """Providers that are asked for usage put `"usage": null` into all chunks before it."""
    asked = delta("Good", usage=None), delta(" day", usage=None), delta(finish="stop", usage=None)
    provider = Provider(streaming(*asked, usage_chunk(), DONE))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    plain = delta("Good") + delta(" day") + delta(finish="stop") + DONE
    for pieces in (asked, (b"".join(asked),), (asked[0][:-9], asked[0][-9:] + asked[1], asked[2])):
        provider.reply = streaming(*pieces, usage_chunk() + DONE)
        assert (await ask(customer, STREAM)).body == plain
    options = {**STREAM, "stream_options": {"include_usage": True}}
    assert (await ask(customer, options)).body == b"".join(asked) + usage_chunk() + DONE
    events = await customer.events()
    assert {(each["input_tokens"], each["output_tokens"], each["estimated"]) for each in events} == {(10, 5, False)}


async def test_counts_named_as_other_apis_do_are_read(make_gateway: MakeGateway, upstream: Upstream) -> None:
    said = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    gateway = await make_gateway(await upstream(saying(answer(said=said))))
    customer = await gateway.customer()
    assert (await ask(customer)).status == 200
    found = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    assert (found["input_tokens"], found["output_tokens"], found["estimated"]) == (10, 5, False)


async def test_an_error_under_status_200_is_free(make_gateway: MakeGateway, upstream: Upstream) -> None:
    said = {"error": {"message": "overloaded", "code": 529}}
    provider = Provider(saying(said))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    fetched = await ask(customer)
    assert (fetched.status, fetched.json) == (200, said)
    assert fetched.headers["x-metergate-cost-usd"] == "0.00"
    assert fetched.headers["x-metergate-balance-usd"] == "5.00"
    provider.reply = streaming(event(said), DONE)
    fetched = await ask(customer, STREAM)
    assert (fetched.body, fetched.cut) == (event(said) + DONE, False)
    await assert_free(customer)


async def test_an_answer_in_which_nothing_was_written_costs_its_input(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve))
    for reply, body in (
        (streaming(DONE), STREAM),
        (streaming(delta(finish="stop"), DONE), STREAM),
        (saying(answer("", {})), chat(model="gpt-4o-mini")),
    ):
        provider.reply = reply
        customer = await gateway.customer()
        assert (await ask(customer, body)).status == 200
        found = await the_event(customer, estimate_nano(tokenizer, ""))
        assert (found["estimated"], found["note"]) == (True, "no_usage")


async def test_the_whole_answer_passes_byte_for_byte(make_gateway: MakeGateway, upstream: Upstream) -> None:
    said = b'{ "usage": {"prompt_tokens":3,"completion_tokens":2 , "total_tokens": 5},\n "x":1.0 }\n'
    provider = Provider(saying(said, Content_Type="application/json; charset=utf-8"))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    fetched = await ask(customer)
    assert (fetched.status, fetched.body) == (200, said)
    assert fetched.headers["Content-Type"] == "application/json; charset=utf-8"
    await the_event(customer, 3 * INPUT + 2 * OUTPUT)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_answer_compressed_all_the_same(make_gateway: MakeGateway, upstream: Upstream, encoding: str) -> None:
    squeeze = gzip.compress if encoding == "gzip" else zlib.compress
    stream = b"".join((*WORDS, usage_chunk(), DONE))
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    pieces = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in (*WORDS, usage_chunk(), DONE)]
    packed = squeeze(json.dumps(answer()).encode())
    headers = {**SSE, "Content-Encoding": encoding}
    provider = Provider(saying(packed, Content_Encoding=encoding))
    gateway = await make_gateway(await upstream(provider.serve))
    for reply, body, sent in (
        (provider.reply, chat(model="gpt-4o-mini"), packed),
        (streaming(*pieces, packer.flush(), headers=headers), STREAM, None),
        (streaming(squeeze(stream), headers=headers), STREAM, squeeze(stream)),
    ):
        provider.reply = reply
        customer = await gateway.customer()
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            url, asked = gateway.url + "/v1/chat/completions", {"Authorization": f"Bearer {customer.key}"}
            fetched = await fetch(session.post(url, json=body, headers=asked))
        assert (fetched.status, fetched.cut) == (200, False)
        assert fetched.headers["Content-Encoding"] == encoding
        if sent is not None:
            assert fetched.body == sent
        else:
            assert zlib.decompress(fetched.body, zlib.MAX_WBITS | 32) == stream
        found = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
        assert found["estimated"] is False


async def test_an_answer_of_several_gzip_members_is_read_whole(make_gateway: MakeGateway, upstream: Upstream) -> None:
    said = json.dumps(answer()).encode()
    packed = b"".join(gzip.compress(part) for part in (said[:40], b"", said[40:]))
    provider = Provider(saying(packed, Content_Encoding="gzip"))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    fetched = await ask(customer, chat(model="gpt-4o-mini"))
    assert (fetched.status, json.loads(fetched.body)) == (200, json.loads(said))
    assert (await the_event(customer, 10 * INPUT + 5 * OUTPUT))["estimated"] is False


# Streams


async def test_a_stream_passes_byte_for_byte_but_for_the_usage_that_we_asked_for(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    odd = b': comment\r\n\r\nevent: x\nid: 1\ndata: {"choices": [],  "odd": true}\n\n'
    provider = Provider(streaming(odd, *WORDS, usage_chunk(), DONE))
    gateway = await make_gateway(await upstream(provider.serve))
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


async def test_any_cut_of_the_provider_s_writes_gives_the_same_bytes(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    whole = b"".join((*WORDS, usage_chunk(), DONE))
    provider = Provider(streaming(whole))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    spent = 0
    for size in (1, 7, 50, len(whole)):
        provider.reply = streaming(*(whole[at : at + size] for at in range(0, len(whole), size)))
        fetched = await ask(customer, STREAM)
        assert fetched.body == b"".join((*WORDS, DONE))
        spent += 10 * INPUT + 5 * OUTPUT
    assert await spent_nano(customer) == spent


async def test_the_cost_is_told_to_who_asks(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(streaming(*WORDS, usage_chunk(1000, 7), DONE))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    cost = "0.0001542"
    assert parse_usd(cost) == 1000 * INPUT + 7 * OUTPUT
    with_cost = usage_chunk(1000, 7, cost_usd=cost)
    for fields in ({}, {"stream_options": {"include_usage": True}}):
        fetched = await ask(customer, {**STREAM, **fields}, headers={"x-metergate-include-cost": "true"})
        assert fetched.body == b"".join((*WORDS, with_cost, DONE))
    plain = await ask(customer, STREAM, headers={"x-metergate-include-cost": "false"})
    assert plain.body == b"".join((*WORDS, DONE))


async def test_an_answer_has_ended_only_when_its_debit_is_safe(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(streaming(*WORDS, usage_chunk(), DONE))
    gateway = await make_gateway(await upstream(provider.serve), ledger_flush_ms=10_000)
    customer = await gateway.customer()
    for body in (STREAM, chat(model="gpt-4o-mini")):
        fetched = await ask(customer, body)
        entry = (await journal(gateway))[fetched.headers["x-request-id"]]
        assert entry.state == SETTLED
        provider.reply = saying(answer())
    assert await spent_nano(customer) == 2 * (10 * INPUT + 5 * OUTPUT)


async def test_the_end_waits_for_the_settlement(make_gateway: MakeGateway, upstream: Upstream) -> None:
    gate = Gate(saying(b""))

    async def reply(request: web.Request) -> web.StreamResponse:
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
        await gateway.runtime.link.command("CLIENT", "PAUSE", 60_000, "WRITE")
        try:
            gate.opened.set()
            got += await response.content.readuntil(WORDS[3])
            await gate.reached()  # the provider has said everything
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await response.content.readany()
        finally:
            await gateway.runtime.link.command("CLIENT", "UNPAUSE")
        got += await response.content.read()
    assert bytes(got) == b"".join((*WORDS, DONE))
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_settlement_that_redis_does_not_confirm_goes_to_postgres(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    gate = Gate(streaming(*WORDS, usage_chunk(), DONE))
    gateway = await make_gateway(await upstream(gate.serve), settle_timeout_ms=1_000, redis_timeout_ms=1_000)
    customer = await gateway.customer()
    running = asking(customer, STREAM)
    await gate.reached()
    await gateway.runtime.link.command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        gate.opened.set()
        fetched = await running
        count = await gateway.runtime.database.value("SELECT count(*) FROM usage_events")
        assert count == 1  # in the ledger by the time that the client has the end
    finally:
        await gateway.runtime.link.command("CLIENT", "UNPAUSE")
    assert fetched.body == b"".join((*WORDS, DONE))

    async def told() -> bool:
        return parse_usd((await customer.balance())["balance_usd"]) == parse_usd("5.00") - 10 * INPUT - 5 * OUTPUT

    await until(told)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_stream_that_is_cut_is_aborted_and_estimated(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    provider = Provider(streaming(*WORDS[:3], cut=True))
    gateway = await make_gateway(await upstream(provider.serve))
    for reply in (provider.reply, streaming(*WORDS[:3])):  # broken off, and ended without saying so
        provider.reply = reply
        customer = await gateway.customer()
        fetched = await ask(customer, STREAM)
        assert (fetched.status, fetched.cut) == (200, True)
        assert b"".join(WORDS[:3]).startswith(fetched.body)
        found = await the_event(customer, estimate_nano(tokenizer, "Good day, friend."))
        assert found["estimated"] is True
        assert found["output_tokens"] == tokenizer.count("Good day, friend.", O200K)


async def test_a_stream_that_is_cut_after_its_usage_is_charged_by_it(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    gateway = await make_gateway(await upstream(streaming(*WORDS, usage_chunk(), cut=True)))
    customer = await gateway.customer()
    fetched = await ask(customer, STREAM)
    assert DONE not in fetched.body
    found = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    assert found["estimated"] is False


async def test_a_stream_may_end_with_its_finish_reason(make_gateway: MakeGateway, upstream: Upstream) -> None:
    """Some providers send no `[DONE]`; and some repeat their usage, which grows and is never added up."""
    grown = [delta("x", usage=usage(10, count)) for count in (1, 2)]
    gateway = await make_gateway(await upstream(streaming(*grown, delta(finish="stop", usage=usage(10, 3)))))
    customer = await gateway.customer()
    fetched = await ask(customer, STREAM)
    assert (fetched.body, fetched.cut) == (b"".join((*grown, delta(finish="stop", usage=usage(10, 3)))), False)
    await the_event(customer, 10 * INPUT + 3 * OUTPUT)


async def test_a_debit_that_can_t_leave_ends_no_answer_and_is_not_lost(
    make_gateway: MakeGateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider(saying(b""))
    gateway = await make_gateway(
        await upstream(provider.serve), settle_timeout_ms=1_000, redis_timeout_ms=1_000, postgres_timeout_s=2
    )
    customer = await gateway.customer()
    command = gateway.runtime.link.command

    async def away(*_: Any) -> None:
        raise DatabaseUnavailable("Postgres is away")

    async def without_stores(then: Handler, body: dict[str, Any]) -> Fetched:
        gate = Gate(then)
        provider.reply = gate.serve
        running = asking(customer, body)
        await gate.reached()
        await command("CLIENT", "PAUSE", 60_000, "WRITE")
        try:
            with monkeypatch.context() as patched:
                patched.setattr("billing.holds.ledger_way.write_free", away)
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

    async def told() -> bool:
        return parse_usd((await customer.balance())["balance_usd"]) == parse_usd("5.00") - 2 * (10 * INPUT + 5 * OUTPUT)

    await until(told)
    events = await customer.events()
    assert len(events) == 2
    assert refused.headers["x-request-id"] in {event["id"] for event in events}  # as the refusal says


async def test_a_stream_that_falls_silent_is_aborted_and_estimated(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        await response.write(WORDS[0])
        await until(lambda: request.transport is None)
        return response

    gateway = await make_gateway(await upstream(reply), upstream_timeout_s=1)
    customer = await gateway.customer()
    fetched = await ask(customer, STREAM)
    assert (fetched.body, fetched.cut) == (WORDS[0], True)
    await the_event(customer, estimate_nano(tokenizer, "Good"))


async def test_to_http_1_0_a_cut_is_a_reset(make_gateway: MakeGateway, upstream: Upstream) -> None:
    """Its body ends where the connection ends: an orderly close would say that this was all."""
    provider = Provider(streaming(*WORDS, usage_chunk(), DONE))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    body = json.dumps(STREAM).encode()
    request = head(customer, f"Content-Length: {len(body)}", version="1.0") + body
    said = await raw(gateway, request)
    assert (said.status, said.reset, said.body) == (200, False, b"".join((*WORDS, DONE)))
    provider.reply = streaming(*WORDS[:3], cut=True)
    said = await raw(gateway, request)
    assert (said.status, said.reset) == (200, True)
    assert await spent_nano(customer) > 10 * INPUT + 5 * OUTPUT
    assert [event["estimated"] for event in await customer.events()] == [False, True]


async def test_a_stream_of_garbage_never_ends_well_and_is_free(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
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


async def test_a_stream_that_is_charged_is_never_refused(make_gateway: MakeGateway, upstream: Upstream) -> None:
    """Compressed, all of it is held back until its end is paid for; then it breaks off without one."""
    packed = gzip.compress(b"".join((WORDS[0], usage_chunk())))

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**SSE, "Content-Encoding": "gzip"})
        await response.prepare(request)
        await response.write(packed)
        assert request.transport is not None
        request.transport.abort()
        return response

    gateway = await make_gateway(await upstream(reply))
    customer = await gateway.customer()
    with pytest.raises(aiohttp.ServerDisconnectedError):  # not a 502, which would say that it was free
        await ask(customer, STREAM)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_garbage_within_a_stream_harms_nothing(make_gateway: MakeGateway, upstream: Upstream) -> None:
    pieces = (WORDS[0], b"data: {half\n\n", b"nonsense\n\n", *WORDS[1:], usage_chunk(), DONE)
    gateway = await make_gateway(await upstream(streaming(*pieces)))
    customer = await gateway.customer()
    fetched = await ask(customer, {**STREAM, "stream_options": {"include_usage": True}})
    assert (fetched.body, fetched.cut) == (b"".join(pieces), False)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_usage_that_can_t_be_is_none(make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer) -> None:
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve))
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


async def test_a_json_answer_to_a_stream_request(make_gateway: MakeGateway, upstream: Upstream) -> None:
    gateway = await make_gateway(await upstream(saying(answer())))
    customer = await gateway.customer()
    fetched = await ask(customer, STREAM)
    assert fetched.json == answer()
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_stream_that_nobody_asked_for(make_gateway: MakeGateway, upstream: Upstream) -> None:
    pieces = (*WORDS, usage_chunk(), DONE)
    gateway = await make_gateway(await upstream(streaming(*pieces, headers={"Content-Type": "Text/Event-Stream"})))
    customer = await gateway.customer()
    fetched = await ask(customer)
    assert fetched.body == b"".join(pieces)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_provider_ids_that_are_not_text_are_survived(make_gateway: MakeGateway) -> None:
    body = json.dumps(answer()).encode()
    odd = b"HTTP/1.1 200 OK\r\nx-request-id: \xff" + b"y" * 4000 + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with peer(bytes_then_close(odd + body)) as base_url:
        gateway = await make_gateway(base_url)
        customer = await gateway.customer()
        fetched = await ask(customer)
    assert fetched.body == body
    found = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    assert len(found["upstream_request_id"]) == 200


# Clients that leave


async def test_a_client_that_leaves_within_a_whole_answer(make_gateway: MakeGateway, upstream: Upstream) -> None:
    """The provider has begun to answer, so its work is done: the client's leaving does not make it free."""
    body = json.dumps(answer()).encode()
    go_on = asyncio.Event()

    async def reply(request: web.Request) -> web.StreamResponse:
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

    async def under_way() -> bool:
        return b'metergate_upstream_latency_seconds_count{provider="openai"} 1.0' in await gateway.metrics()

    await leave(customer, chat(model="gpt-4o-mini"), lambda: until(under_way))
    await noticed(gateway)
    go_on.set()
    await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_client_that_leaves_while_its_tokens_are_counted(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, go_on = [], asyncio.Event()
    guess = MissingUsage.guess

    async def slow(*arguments: Any) -> Any:
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


async def test_a_client_that_leaves_within_a_stream(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    more = delta(" word" * 1000)
    provider = Slow(WORDS[0], *[more] * 1000, usage_chunk(), DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=0)
    customer = await gateway.customer()
    await leave(customer, STREAM, nothing, first=WORDS[0])
    found = await the_event_in_the_end(customer)
    assert found["estimated"] is True
    await until(lambda: provider.gone or provider.ended)
    assert provider.gone  # stopped, not read to its end
    assert parse_usd(found["charged_usd"]) == estimate_nano(tokenizer, "Good")
    assert found["output_tokens"] >= tokenizer.count("Good", O200K)


async def test_a_client_that_leaves_at_the_end(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Slow(b"".join(WORDS), usage_chunk(), DONE)
    gateway = await make_gateway(await upstream(provider.serve), settle_timeout_ms=60_000, redis_timeout_ms=60_000)
    customer = await gateway.customer()

    async def last_chunk() -> None:
        await gateway.runtime.link.command("CLIENT", "PAUSE", 60_000, "WRITE")
        provider.let.set()
        await until(lambda: provider.ended)
        await noticed(gateway)

    try:
        await leave(customer, STREAM, last_chunk, first=WORDS[3])
    finally:
        await gateway.runtime.link.command("CLIENT", "UNPAUSE")
    assert (await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT))["estimated"] is False


async def test_draining_reads_the_usage_after_the_client_has_left(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    provider = Slow(WORDS[0], *[delta("word " * 1000)] * 1000, usage_chunk(), DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=BOUND_S)
    customer = await gateway.customer()
    await leave(customer, STREAM, nothing, first=WORDS[0])
    await noticed(gateway)
    provider.let.set()
    found = await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT)
    assert found["estimated"] is False
    assert provider.ended


async def test_draining_ends_in_time(make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer) -> None:
    provider = Slow(WORDS[0], DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=0.1)
    customer = await gateway.customer()
    await leave(customer, STREAM, nothing, first=WORDS[0])
    await the_event_in_the_end(customer, estimate_nano(tokenizer, "Good"))
    await until(lambda: provider.gone or provider.ended)


async def test_a_drain_goes_on_while_the_gateway_stops(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    provider = Slow(WORDS[0], DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=600)
    customer = await gateway.customer()
    await leave(customer, STREAM, nothing, first=WORDS[0])
    await noticed(gateway)
    stopping = asyncio.create_task(gateway.runtime.engine.holds.drain(BOUND_S))
    provider.let.set()
    assert await stopping
    await the_event_in_the_end(customer, estimate_nano(tokenizer, "Good"))
