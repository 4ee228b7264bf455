"""Large bodies through a whole gateway: what is refused before they are read, what bounds them, and where they are
worked on."""

import asyncio
import gc
import gzip
import json
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.server.exchange import CONTINUE
from tests.gateway.conftest import Customer, Gateway, chat
from tests.support.answering import answer, saying
from tests.support.garbage import circles

pytestmark = pytest.mark.slow

MIB = 1 << 20
PACKED = "Content-Encoding: gzip"
# Above `large_body_bytes`.
LARGE = MIB


def body_of(size_bytes: int, **fields: Any) -> bytes:
    """A chat request of so many bytes, or a few more."""
    return json.dumps(chat("x" * size_bytes, **fields)).encode()


async def asked(customer: Customer, body: Any, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    async with customer.post(data=body, headers=headers) as seen:
        return seen.status, (await seen.json()).get("error") or {}, dict(seen.headers)


class Upload:
    """A request whose head is sent, and whose body when the test says so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def begin(cls, customer: Customer, *lines: str) -> "Upload":
        parts = urlsplit(customer.gateway.url)
        made = cls(*await asyncio.open_connection(parts.hostname, parts.port))
        head = ["POST /v1/chat/completions HTTP/1.1", "Host: here", f"Authorization: Bearer {customer.key}", *lines]
        made.writer.write("\r\n".join(head).encode() + b"\r\n\r\n")
        return made

    async def answer(self) -> tuple[int, dict[str, Any]]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        size = next(int(line.split(": ")[1]) for line in lines if line.lower().startswith("content-length"))
        return int(lines[0].split()[1]), json.loads(await self.reader.readexactly(size)).get("error") or {}

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def _kept(gateway: Gateway) -> int:
    """Bytes of bodies in memory."""
    return gateway.proxy.bodies.size_bytes


@pytest.mark.parametrize("framing", [f"Content-Length: {30 * MIB}", "Transfer-Encoding: chunked"])
async def test_an_account_that_can_not_pay_is_refused_before_its_large_body_is_read(gateway, framing):
    """Suspended, or with nothing left: at once where the head says how large it is, else when it has become large."""
    suspended, empty, rich = [await gateway.customer(balance) for balance in ("5.00", "0", "5.00")]
    await gateway.admin("PATCH", f"/accounts/{suspended.account_id}", {"status": "suspended"})
    async with empty.post(body=chat()) as seen:  # its balance is in Redis from here on
        assert seen.status == 402
    for customer in (suspended, empty):
        upload = await Upload.begin(customer, framing, "Expect: 100-continue")
        if "chunked" in framing:
            assert await upload.reader.readexactly(len(CONTINUE)) == CONTINUE
            part = b"%x\r\n%b\r\n" % (LARGE, b"x" * LARGE)
            upload.writer.write(part)
        status, error = await upload.answer()
        assert (status, error["code"]) == (402, "billing_required")
        await upload.leave()
    upload = await Upload.begin(rich, framing, "Expect: 100-continue")
    assert await upload.reader.readexactly(len(CONTINUE)) == CONTINUE
    await upload.leave()
    await _until(lambda: _kept(gateway) == 0)


@pytest.mark.parametrize("path", ["/v1/moderations", "/v1/messages/count_tokens"])
async def test_who_has_nothing_left_is_served_where_nothing_is_charged(gateway, path):
    """A free model, and a free endpoint: a large body is read there, and refused where every model costs something."""
    empty = await gateway.customer("0")
    async with empty.post(body=chat()) as seen:  # its balance is in Redis from here on
        assert seen.status == 402
    text = "x" * LARGE
    body = {"model": "demo-moderation", "input": text} if "moderations" in path else chat(text)
    async with empty.post(path, body=body) as seen:
        assert seen.status == 200
    async with empty.post("/v1/embeddings", body={"model": "demo-embedding", "input": text}) as seen:
        assert seen.status == 402


async def test_a_large_body_s_refusals_are_those_of_a_small_one(gateway):
    """Where the account could pay, the checks come in their order."""
    customer = await gateway.customer("0.01")
    small, other = body_of(10), await gateway.customer("5.00", scopes=["billing:read"])
    for body, code in (
        (b"{" + b" " * LARGE, "invalid_request_error"),
        (body_of(LARGE, model="none"), "model_not_found"),
        (body_of(LARGE, n=0), "invalid_request_error"),
        (body_of(LARGE), "billing_required"),
        (b" " * (33 * MIB), "request_too_large"),
    ):
        assert (await asked(customer, body))[1]["code"] == code
    for body in (small, body_of(LARGE)):
        assert (await asked(other, body))[1]["code"] == "insufficient_scope"
    customer = replace(customer, key="mg_none")
    assert (await asked(customer, body_of(LARGE)))[1]["code"] == "invalid_api_key"


async def test_bodies_in_flight_are_bounded_for_an_account_and_for_a_worker(make_gateway):
    gateway = await make_gateway(
        change=lambda settings: replace(settings, proxy_max_body_bytes=2 * MIB),
        body_bytes_in_flight=3 * MIB,
        account_body_bytes_in_flight=2 * MIB,
    )
    one, two = [await gateway.customer("50.00") for _ in range(2)]
    body = body_of(2 * MIB - 1000)
    half = len(body) // 2
    uploads = []
    for customer in (one, two):
        upload = await Upload.begin(customer, f"Content-Length: {len(body)}")
        upload.writer.write(body[:half])
        await _until(lambda: _kept(gateway) == half * (len(uploads) + 1))
        uploads.append(upload)
    for sent in (body, _chunks(body)):  # of its own account there is no room, whether its length is known or not
        status, error, headers = await asked(one, sent)
        assert (status, error["code"], headers["Retry-After"]) == (429, "concurrency_exceeded", "1")
        assert "This account" in error["message"]
    async with one.post(body=chat()) as seen:  # small ones are served
        assert seen.status == 200
    uploads[0].writer.write(body[half:])
    assert await uploads[0].answer() == (200, {})
    upload = await Upload.begin(one, f"Content-Length: {len(body)}")
    upload.writer.write(body[:-1])
    await _until(lambda: _kept(gateway) == half + len(body) - 1)
    status, error, _ = await asked(two, body_of(MIB // 2))
    assert (status, error["code"]) == (429, "concurrency_exceeded")
    assert "This gateway" in error["message"]
    for each in (*uploads, upload):
        await each.leave()
    await _until(lambda: _kept(gateway) == 0)
    assert (await asked(one, body))[0] == 200


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), MIB // 4):
        yield body[start : start + MIB // 4]


async def test_a_large_body_is_parsed_and_written_anew_off_the_loop(customer_of, monkeypatch):
    """A small one is not: it would take longer."""
    threads = []

    def noted(name):
        work = vars(OpenAIDialect)[name]  # a function or a static method

        def noting(self, *args, **kwargs):
            threads.append((name, threading.current_thread() is threading.main_thread()))
            return work.__get__(self, OpenAIDialect)(*args, **kwargs)

        return noting

    for name in ("parse", "rewrite"):
        monkeypatch.setattr(OpenAIDialect, name, noted(name))
    got = []

    async def reply(request):
        got.append(await request.read())
        return await _answer(request)

    _answer = saying(answer())
    customer = await customer_of(reply, "50.00")
    for size, on_the_loop in ((10, True), (LARGE, False)):
        body = body_of(size, model="gpt-4o-mini")
        assert (await asked(customer, body))[0] == 200
        assert json.loads(got[-1])["messages"] == json.loads(body)["messages"]
        assert {where for name, where in threads if name == "parse"} == {on_the_loop}
        threads.clear()
    assert (await asked(customer, body_of(LARGE, model="openai/gpt-4o-mini")))[0] == 200
    assert ("rewrite", True) not in threads
    assert ("rewrite", False) in threads


OUTCOMES = {
    "served": (body_of(LARGE, model="gpt-4o-mini"), (), 200),
    "served by another name": (body_of(LARGE, model="openai/gpt-4o-mini"), (), 200),
    "no JSON": (b"{" + b"x" * LARGE, (), 400),
    "a wrong field": (body_of(LARGE, n=0), (), 400),
    "another model": (body_of(LARGE, model="none"), (), 404),
    "too much for its balance": (body_of(LARGE, model="gpt-4o-mini", n=128), (), 402),
    "a coded body without its end": (gzip.compress(os.urandom(LARGE))[:-9], (PACKED,), 400),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_a_large_body_goes_with_its_request(gateway_of, outcome):
    """Nothing keeps it until a collection of garbage, which a worker does seldom."""
    body, lines, expected = OUTCOMES[outcome]
    gateway = await gateway_of(saying(answer()))
    customer = await gateway.customer("1.00")
    with circles() as left:
        for _ in range(2):
            upload = await Upload.begin(customer, f"Content-Length: {len(body)}", *lines)
            upload.writer.write(body)
            assert (await upload.answer())[0] == expected
            await upload.leave()
        await _until(lambda: _kept(gateway) == 0)
        kept = [
            (type(each), len(found))
            for each in left()
            for found in gc.get_referents(each)
            if isinstance(found, bytes) and len(found) >= LARGE and found is not body
        ]
        assert kept == []
