"""The transport against real servers on loopback: what passes, which connections are used again, who may have one."""

import asyncio
from contextlib import suppress

import pytest
from aiohttp import web
from msgspec import structs
from multidict import CIMultiDict

from gateway.upstream.base import (
    UpstreamCut,
    UpstreamRequest,
)
from gateway.upstream.transport import HttpTransport
from tests.support.providers import (
    BODY,
    BOUND_S,
    QUERY_SECRET,
    Answering,
    app_serving,
    outcome,
    post,
    serving,
    take_request,
)


async def test_request_and_answer_pass_unchanged(transport):
    seen = {}

    async def handler(request):
        seen.update(
            method=request.method, path=request.path_qs, body=await request.read(), headers=request.headers.copy()
        )
        return web.Response(status=201, body=b"answer", headers={"X-Answer": "1", "Content-Type": "application/x"})

    async with app_serving(handler) as url:
        answer = await transport.send(post(url, headers={"Authorization": "Bearer sk-provider", "X-Odd": "Grüße"}))
        assert (answer.status, dict(answer.headers)[b"X-Answer"]) == (201, b"1")
        assert dict(answer.headers)[b"Content-Type"] == b"application/x"
        assert await answer.read(100) == b"answer"
        answer.release()
    assert (seen["method"], seen["body"]) == ("POST", BODY)
    assert seen["path"] == f"/v1/chat/completions?key={QUERY_SECRET}"
    headers = seen["headers"]
    assert isinstance(headers, CIMultiDict)
    assert set(headers) == {"Host", "Content-Type", "Accept-Encoding", "Authorization", "X-Odd", "Content-Length"}
    assert headers["Accept-Encoding"] == "identity"


async def test_nothing_is_added_that_the_caller_did_not_give(transport):
    heads = []

    async def peer(reader, writer):
        heads.append(await take_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with serving(peer) as url:
        assert await outcome(transport, UpstreamRequest(url, b"", b"x")) == b""
    names = {line.split(b":")[0].lower() for line in heads[0].split(b"\r\n")[1:] if line}
    assert names == {b"host", b"content-length"}


async def test_a_get_has_no_body(transport):
    async def handler(request):
        return web.Response(text=f"{request.method} {request.headers.get('Content-Length')}")

    async with app_serving(handler) as url:
        assert await outcome(transport, UpstreamRequest(url, b"", b"", "GET")) == b"GET None"


async def test_a_large_body_arrives_whole(transport):
    async def handler(request):
        return web.Response(text=f"{request.headers['Content-Length']} {len(await request.read())}")

    body = b"x" * 8_000_000
    async with app_serving(handler) as url:
        assert await outcome(transport, post(url, body)) == b"8000000 8000000"


async def test_connections_are_used_again_after_whole_answers_alone(transport):
    connections = set()

    async def handler(request):
        connections.add(request.transport)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"part")
        if request.headers.get("X-Endless"):
            with suppress(ConnectionError):
                while True:
                    await response.write(b"x" * 1_000)
                    await asyncio.sleep(0)
        return response

    async with app_serving(handler) as url:
        for _ in range(5):
            assert await outcome(transport, post(url)) == b"part"
        assert len(connections) == 1
        answer = await transport.send(post(url, headers={"X-Endless": "1"}))
        answer.release()
        assert await outcome(transport, post(url)) == b"part"
        assert len(connections) == 2


async def test_release_in_the_middle_stops_the_provider(transport):
    stopped = asyncio.Event()

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await reader.read()
        stopped.set()

    async with serving(peer) as url:
        answer = await transport.send(post(url))
        assert await anext(answer.chunks()) == b"data: 1\n\n"
        answer.release()
        await asyncio.wait_for(stopped.wait(), BOUND_S)
        with pytest.raises(UpstreamCut):
            await anext(answer.chunks())


@pytest.mark.parametrize("taken_up", [False, True])
async def test_a_cancelled_send_leaves_its_answer_to_whoever_takes_it(transport, taken_up):
    peer = Answering(taken_up=taken_up)
    async with serving(peer.serve) as url:
        pending = await peer.cancelled(transport, post(url))
        if taken_up:
            answer = await peer.answer(pending)
            assert (answer.status, await answer.read(100)) == (200, b"said")
            answer.release()
            await transport.close()
        else:
            pending.release()
        await asyncio.wait_for(peer.stopped.wait(), BOUND_S)


async def test_a_cancelled_send_of_which_not_all_has_left_is_none(transport):
    """The provider has not got it, and can't have begun to work."""
    arrived, stopped = asyncio.Event(), asyncio.Event()

    async def peer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        arrived.set()
        await stopped.wait()

    async with serving(peer) as url:
        request = post(url, body=b"x" * (32 << 20))
        sending = asyncio.create_task(transport.send(request))
        await asyncio.wait_for(arrived.wait(), BOUND_S)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert request.pending is None
        stopped.set()


async def test_redirects_are_answers(transport):
    calls = 0

    async def handler(request):
        nonlocal calls
        calls += 1
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        assert answer.status == 307
        answer.release()
    assert calls == 1


async def test_cookies_are_not_kept(transport):
    cookies = []

    async def handler(request):
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "a=1; Path=/"})

    async with app_serving(handler) as url:
        for _ in range(2):
            await outcome(transport, post(url.replace("127.0.0.1", "localhost")))
    assert cookies == [None, None]


@pytest.mark.parametrize(("connections", "connect_timeout_s", "timeout_s"), [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
async def test_bounds_are_above_zero(connections, connect_timeout_s, timeout_s):
    with pytest.raises(ValueError, match="above zero"):
        HttpTransport(connections=connections, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s)


async def test_one_account_can_t_take_every_connection():
    transport = HttpTransport(connections=3, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)

    async def handler(request):
        return web.Response(text="ok")

    async with app_serving(handler) as url, asyncio.timeout(BOUND_S):
        of_a, of_b = (structs.replace(post(url), account=name) for name in "ab")
        first = await transport.send(of_a)  # one of three is half of them, rounded down
        second = asyncio.create_task(outcome(transport, of_a))
        for _ in range(20):
            assert await outcome(transport, of_b) == b"ok"
        assert not second.done()
        first.release()
        assert await second == b"ok"
    await transport.close()
