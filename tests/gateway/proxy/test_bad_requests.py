"""What can't get in: bodies, heads and failures that no request survives."""

import asyncio
import gzip
import json
import zlib
from dataclasses import replace

import pytest

from billing.holds.api import Admissions
from gateway.proxy.settlement.missing_usage import MissingUsage
from tests.gateway.conftest import chat
from tests.support.answering import BOUND_S, DONE, WORDS, Provider, answer, saying, streaming
from tests.support.gateways import ask, assert_free, fetch, head, raw, refusal, spent_nano, the_event

pytestmark = pytest.mark.slow

KIB, MIB = 1024, 1024 * 1024
BAD_BODIES: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", None),
    "half": (b'{"model": "demo", "messages": [', None),
    "not an object": (b'["demo"]', None),
    "a number": (b"1", None),
    "NaN": (b'{"model":"demo","messages":[],"x":NaN}', None),
    "not UTF-8": (b'{"model":"demo","messages":[],"user":"\xff"}', None),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"demo","messages":[]}', None),
    "too deep": (b'{"model":"demo","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    "twice": (b'{"model":"demo","messages":[],"max_tokens":1,"max_tokens":100000}', "max_tokens"),
    "twice, escaped": (b'{"model":"demo","messages":[],"max_tokens":1,"max\\u005ftokens":9}', "max_tokens"),
    "in capitals": (b'{"model":"demo","messages":[],"MAX_TOKENS":1}', "max_tokens"),
    "no model": (b'{"messages":[]}', "model"),
    "model is null": (b'{"model":null,"messages":[]}', "model"),
    "model is a number": (b'{"model":1,"messages":[]}', "model"),
    "model is empty": (b'{"model":"","messages":[]}', "model"),
    "model is long": (b'{"model":"' + b"m" * 201 + b'","messages":[]}', "model"),
    "no messages": (b'{"model":"demo"}', "messages"),
    "messages is a string": (b'{"model":"demo","messages":"Hi"}', "messages"),
    "messages of numbers": (b'{"model":"demo","messages":[{"a":[]},1]}', "messages"),
    "stream is a string": (b'{"model":"demo","messages":[],"stream":"yes"}', "stream"),
    "n is zero": (b'{"model":"demo","messages":[],"n":0}', "n"),
    "n is a string": (b'{"model":"demo","messages":[],"n":"2"}', "n"),
    "n is a fraction": (b'{"model":"demo","messages":[],"n":1.5}', "n"),
    "n is huge": (b'{"model":"demo","messages":[],"n":1000000}', "n"),
    "maximum below zero": (b'{"model":"demo","messages":[],"max_tokens":-1}', "max_tokens"),
    "maximum beyond all": (b'{"model":"demo","messages":[],"max_tokens":99999999999999999999}', "max_tokens"),
    "options are a list": (b'{"model":"demo","messages":[],"stream":true,"stream_options":[]}', "stream_options"),
}


async def test_bad_bodies_are_refused_and_name_their_fault(gateway):
    customer = await gateway.customer()
    for what, (body, param) in BAD_BODIES.items():
        fetched = await fetch(customer.post(data=body))
        error = refusal(fetched, 400, "invalid_request_error")
        assert error["param"] == param, what
        assert fetched.headers["x-should-retry"] == "false"
    await assert_free(customer)


async def test_odd_but_lawful_bodies_harm_nothing(gateway, caplog):
    customer = await gateway.customer()
    for body in (
        b'{"model":"local/a\\u0000b","messages":[]}',
        b'{"model":"local/a\\nb","messages":[]}',
        b'{"model":"demo","messages":[],"user":"\\u0000"}',
        b'{"model":"demo","messages":[],"safety_identifier":"' + b"s" * 5000 + b'"}',
        b'{"model":"demo","messages":[{"role":"user","content":"\\ud83d"}],"max_tokens":1}',
        b'{"model":"\\ud83d","messages":[]}',
        b'{"model":"demo","messages":[{}],"stream":true,"stream_options":null}',
        b'{"model":"demo","messages":[null, 5]}',
    ):
        fetched = await fetch(customer.post(data=body))
        assert fetched.status in (200, 400, 404), (body, fetched.body)
        if fetched.status != 200:
            fetched.json["error"]
    await spent_nano(customer)
    assert "failed" not in caplog.text
    assert "set aside" not in caplog.text


async def test_counts_beyond_all_bounds_are_the_client_s_fault(gateway, caplog):
    customer = await gateway.customer()
    prompts = {"model": "demo", "prompt": ["a"] * 100_000, "n": 100}
    refusal(await ask(customer, prompts, path="/v1/completions"), 400, "invalid_request_error")
    many = chat(max_tokens=2**31 - 1, n=128, model="demo")
    refusal(await ask(customer, many), 402, "billing_required")
    assert "Traceback" not in caplog.text


async def test_a_body_above_the_bound_is_refused_before_it_is_read(gateway):
    customer = await gateway.customer()
    announced = head(customer, f"Content-Length: {40 * MIB}", "Connection: close")
    response = await raw(gateway, announced, b"x" * KIB)  # the rest never comes
    assert response.status == 413
    assert json.loads(response.body)["error"]["code"] == "request_too_large"


async def test_a_chunked_body_above_the_bound_is_refused(make_gateway):
    gateway = await make_gateway(change=lambda settings: replace(settings, proxy_max_body_bytes=256 * KIB))
    customer = await gateway.customer()

    async def pieces(length):
        for _ in range(length // (64 * KIB)):
            yield b" " * 64 * KIB

    refusal(await fetch(customer.post(data=pieces(40 * MIB))), 413, "request_too_large")
    refusal(await fetch(customer.post(data=pieces(256 * KIB))), 400, "invalid_request_error")
    refusal(await fetch(customer.post(data=b" " * (256 * KIB + 1))), 413, "request_too_large")
    refusal(await fetch(customer.post(data=b" " * 256 * KIB)), 400, "invalid_request_error")


async def test_compressed_bodies_are_bounded_after_decoding(make_gateway):
    gateway = await make_gateway(change=lambda settings: replace(settings, proxy_max_body_bytes=MIB))
    customer = await gateway.customer()
    body = json.dumps(chat("word " * 1000)).encode()
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        fetched = await fetch(customer.post(data=packed, headers={"Content-Encoding": encoding}))
        assert fetched.status == 200
    bomb = gzip.compress(b'{"model":"demo","messages":[],"x":"' + b"0" * 64 * MIB)
    assert len(bomb) < MIB
    refusal(await fetch(customer.post(data=bomb, headers={"Content-Encoding": "gzip"})), 413, "request_too_large")
    for spoilt in (b"not gzip at all", gzip.compress(body)[:-20], gzip.compress(body)[:30]):
        fetched = await fetch(customer.post(data=spoilt, headers={"Content-Encoding": "gzip"}))
        refusal(fetched, 400, "invalid_request_error")


async def test_header_injection_gets_nowhere(gateway_of):
    provider = Provider(saying(answer()))
    gateway = await gateway_of(provider.serve)
    customer = await gateway.customer()
    body = json.dumps(chat(model="gpt-4o-mini")).encode()
    length = f"Content-Length: {len(body)}"
    for lines in (
        ("X-Request-Id: a\rX-Evil: 1", length),
        ("X-Request-Id: a\nX-Evil: 1", length),
        ("X-Request-Id: a\0b", length),
        ("X-Evil : 1", length),
        (length, f"Content-Length: {len(body) + 1}"),
        (length, "Transfer-Encoding: chunked"),
        ("Content-Length: +5",),
        ("Transfer-Encoding: chunked, identity",),
    ):
        response = await raw(gateway, head(customer, "Connection: close", *lines) + body)
        assert response.status in (400, 0) or all("X-Evil" not in sent.headers for sent in provider.sent), lines
        assert b"Traceback" not in response.data
        assert customer.key.encode() not in response.data
    smuggled = head(customer, "Connection: close", length) + body
    assert (await raw(gateway, smuggled)).status == 200


async def test_header_bytes_that_are_not_text_are_survived(gateway_of, caplog):
    gateway = await gateway_of(saying(answer()))
    customer = await gateway.customer()
    body = json.dumps(chat(model="gpt-4o-mini")).encode()
    lines = ("X-Request-Id: caf\xe9\xff", "User-Agent: M\xfcller", "Connection: close", f"Content-Length: {len(body)}")
    response = await raw(gateway, head(customer, *lines) + body)
    assert response.status == 200
    event = await the_event(customer)
    assert event["client_request_id"] == "caf??"
    assert "Traceback" not in caplog.text


async def test_a_client_that_leaves_while_it_uploads(gateway, caplog):
    customer = await gateway.customer()
    where = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(where[0], int(where[1]))
    writer.write(head(customer, "Content-Length: 1000") + b'{"model": ')
    await writer.drain()
    writer.close()
    assert (await ask(customer, chat())).status == 200
    await the_event(customer)
    assert "Traceback" not in caplog.text


async def test_a_body_that_does_not_come_is_not_waited_for(gateway_of):
    gateway = await gateway_of(upload_timeout_s=0.05)
    customer = await gateway.customer()
    where = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(where[0], int(where[1]))
    writer.write(head(customer, "Content-Length: 1000") + b'{"model": ')
    async with asyncio.timeout(BOUND_S):
        response = await reader.readuntil(b"}}")
    writer.close()
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive within 0.05 s" in response
    assert b'"code":"invalid_request_error"' in response


async def test_a_failure_of_ours_says_nothing_of_itself(make_gateway, upstream, monkeypatch):
    gateway = await make_gateway(await upstream(streaming(*WORDS, DONE)))
    customer = await gateway.customer()

    async def broken(*_):
        raise RuntimeError("a secret of Redis")

    def broken_at_once(*_):
        raise RuntimeError("a secret of Redis")

    for name, asked in (("admit", broken), ("ask", broken_at_once)):
        with monkeypatch.context() as patched:
            patched.setattr(Admissions, "must_wait", lambda *_, waits=name == "admit": waits)
            patched.setattr(Admissions, name, asked)
            fetched = await ask(customer)
            refusal(fetched, 503, "temporarily_unavailable")
    await assert_free(customer)
    with monkeypatch.context() as patched:
        patched.setattr(MissingUsage, "guess", broken)
        fetched = await ask(customer, chat(model="gpt-4o-mini", stream=True))
    assert (fetched.status, fetched.cut) == (200, True)
    assert b"temporarily" not in fetched.body
