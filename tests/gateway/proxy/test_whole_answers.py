"""Whole answers, from hold to settlement: providers that misbehave in every way. After each: the right answer, the
exact debit, nothing held."""

import gzip
import json
import zlib

import aiohttp
import pytest

from gateway.tokens import O200K
from tests.gateway.conftest import chat
from tests.support.answering import (
    DONE,
    PROVIDER_KEY,
    SSE,
    WORDS,
    Peer,
    Provider,
    answer,
    bytes_then_close,
    delta,
    event,
    peer,
    saying,
    streaming,
    take_request,
    usage_chunk,
)
from tests.support.gateways import INPUT, OUTPUT, ask, assert_free, fetch, refusal, the_event
from tests.support.passed_answers import STREAM, estimate_nano

HTML = b"<html><body><h1>It works!</h1></body></html>"
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
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


async def test_answers_that_are_none_are_502_and_free(make_gateway, caplog):
    turn = []

    async def speak(reader, writer):
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


async def test_a_silent_provider_is_504_and_free(make_gateway):
    async def silent(reader, writer):
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


async def test_a_provider_s_own_refusals_pass_unchanged_and_free(customer_of):
    provider = Provider(saying(b""))
    customer = await customer_of(provider.serve)
    refusal = b'{"error": {"message": "theirs",  "type": "x", "code": null}}'
    for status in (400, 402, 404, 409, 413, 422, 429, 500, 502, 503, 529):
        for stream in (False, True):
            provider.reply = saying(refusal, status, Retry_After="7", x_request_id="req_1", x_should_retry="true")
            fetched = await ask(customer, chat(model="gpt-4o-mini", stream=stream))
            assert (fetched.status, fetched.body) == (status, refusal)
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
    make_gateway, upstream, caplog, status
):
    rejected = {"error": {"message": f"Incorrect API key provided: {PROVIDER_KEY}", "code": "invalid_api_key"}}
    gateway = await make_gateway(
        await upstream(saying(rejected, status, x_request_id="req_1", WWW_Authenticate="Bearer"))
    )
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


async def test_what_a_provider_refuses_is_logged_and_counted(make_gateway, upstream, caplog):
    gateway = await make_gateway(await upstream(saying({"error": {"message": "a client's secret"}}, 429)))
    customer = await gateway.customer()
    fetched = await ask(customer)
    assert fetched.status == 429
    (line,) = [record for record in caplog.records if "answered 429" in record.getMessage()]
    assert line.levelname == "WARNING"
    for part in (fetched.headers["x-request-id"], "openai", "gpt-4o-mini", customer.account_id):
        assert part in line.getMessage()
    assert "secret" not in caplog.text
    series = 'metergate_upstream_refusals_total{provider="openai",status="429"} 1.0'
    assert series in (await gateway.metrics()).decode()


async def test_an_error_event_that_ends_a_stream_is_passed_on_and_the_stream_ended(customer_of, tokenizer):
    error = event({"error": {"message": "overloaded", "code": 529}})
    provider = Provider(streaming(error))
    customer = await customer_of(provider.serve)
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


async def test_usage_that_the_client_did_not_ask_for_does_not_reach_it(customer_of):
    """Providers that are asked for usage put `"usage": null` into all chunks before it."""
    asked = delta("Good", usage=None), delta(" day", usage=None), delta(finish="stop", usage=None)
    provider = Provider(streaming(*asked, usage_chunk(), DONE))
    customer = await customer_of(provider.serve)
    plain = delta("Good") + delta(" day") + delta(finish="stop") + DONE
    for pieces in (asked, (b"".join(asked),), (asked[0][:-9], asked[0][-9:] + asked[1], asked[2])):
        provider.reply = streaming(*pieces, usage_chunk() + DONE)
        assert (await ask(customer, STREAM)).body == plain
    options = {**STREAM, "stream_options": {"include_usage": True}}
    assert (await ask(customer, options)).body == b"".join(asked) + usage_chunk() + DONE
    events = await customer.events()
    assert {(each["input_tokens"], each["output_tokens"], each["estimated"]) for each in events} == {(10, 5, False)}


async def test_counts_named_as_other_apis_do_are_read(customer_of):
    counts = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    customer = await customer_of(saying(answer(reported=counts)))
    assert (await ask(customer)).status == 200
    found = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    assert (found["input_tokens"], found["output_tokens"], found["estimated"]) == (10, 5, False)


async def test_an_error_under_status_200_is_free(customer_of):
    error = {"error": {"message": "overloaded", "code": 529}}
    provider = Provider(saying(error))
    customer = await customer_of(provider.serve)
    fetched = await ask(customer)
    assert (fetched.status, fetched.json) == (200, error)
    assert fetched.headers["x-metergate-cost-usd"] == "0.00"
    assert fetched.headers["x-metergate-balance-usd"] == "5.00"
    provider.reply = streaming(event(error), DONE)
    fetched = await ask(customer, STREAM)
    assert (fetched.body, fetched.cut) == (event(error) + DONE, False)
    await assert_free(customer)


async def test_an_answer_in_which_nothing_was_written_costs_its_input(gateway_of, tokenizer):
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve)
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


async def test_the_whole_answer_passes_byte_for_byte(customer_of):
    body = b'{ "usage": {"prompt_tokens":3,"completion_tokens":2 , "total_tokens": 5},\n "x":1.0 }\n'
    provider = Provider(saying(body, Content_Type="application/json; charset=utf-8"))
    customer = await customer_of(provider.serve)
    fetched = await ask(customer)
    assert (fetched.status, fetched.body) == (200, body)
    assert fetched.headers["Content-Type"] == "application/json; charset=utf-8"
    await the_event(customer, 3 * INPUT + 2 * OUTPUT)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_answer_compressed_all_the_same(gateway_of, encoding):
    squeeze = gzip.compress if encoding == "gzip" else zlib.compress
    stream = b"".join((*WORDS, usage_chunk(), DONE))
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    pieces = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in (*WORDS, usage_chunk(), DONE)]
    packed = squeeze(json.dumps(answer()).encode())
    headers = {**SSE, "Content-Encoding": encoding}
    provider = Provider(saying(packed, Content_Encoding=encoding))
    gateway = await gateway_of(provider.serve)
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


async def test_an_answer_of_several_gzip_members_is_read_whole(customer_of):
    body = json.dumps(answer()).encode()
    packed = b"".join(gzip.compress(part) for part in (body[:40], b"", body[40:]))
    provider = Provider(saying(packed, Content_Encoding="gzip"))
    customer = await customer_of(provider.serve)
    fetched = await ask(customer, chat(model="gpt-4o-mini"))
    assert (fetched.status, json.loads(fetched.body)) == (200, json.loads(body))
    assert (await the_event(customer, 10 * INPUT + 5 * OUTPUT))["estimated"] is False
