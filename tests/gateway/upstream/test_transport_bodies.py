"""Bodies through the transport: limits, back-pressure, events, large streams."""

import asyncio
import gzip
from contextlib import suppress

import pytest
from aiohttp import web

from gateway.upstream.base import (
    UpstreamTooLarge,
)
from gateway.upstream.transport import HttpTransport
from tests.support.edge_servers import on_both_loops
from tests.support.providers import (
    BOUND_S,
    app_serving,
    assert_no_secret,
    post,
    serving,
    take_request,
)


async def test_a_compressed_answer_passes_undecoded(transport):
    packed = gzip.compress(b'{"usage":{}}')

    async def handler(request):
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        assert dict(answer.headers)[b"Content-Encoding"] == b"gzip"
        assert await answer.read(1_000) == packed
        answer.release()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_huge_answer_stops_at_the_limit(transport, announced):
    sent = 0

    async def handler(request):
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Length": "100000000"} if announced else {})
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(100):
                await response.write(b"x" * 1_000_000)
                sent += 1_000_000
        return response

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        with pytest.raises(UpstreamTooLarge, match="above 1000000 bytes") as error:
            await answer.read(1_000_000)
        answer.release()
    assert sent < 50_000_000
    assert_no_secret(error)


async def test_an_answer_of_just_the_limit_is_read(transport):
    async def handler(request):
        return web.Response(body=b"x" * 1_000)

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        assert len(await answer.read(1_000)) == 1_000
        answer.release()


async def test_a_reader_that_stops_holds_the_provider_back(transport):
    sent = 0

    async def handler(request):
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(2_000):
                await response.write(b"x" * 100_000)
                sent += 100_000
        return response

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        chunks = answer.chunks()
        await anext(chunks)
        before = -1
        async with asyncio.timeout(BOUND_S):
            while before != sent:
                before = sent
                await asyncio.sleep(0.2)
        assert sent < 100_000_000  # what the system's socket buffers take, not the 200 MB of the answer
        answer.release()


async def test_events_arrive_one_by_one(transport):
    taken = asyncio.Event()

    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(5):
            taken.clear()
            await response.write(b"data: %d\n\n" % number)
            await taken.wait()
        return response

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        assert dict(answer.headers)[b"Content-Type"] == b"text/event-stream"
        seen = []
        async for chunk in answer.chunks():
            seen.append(chunk)
            taken.set()
        answer.release()
    assert seen == [b"data: %d\n\n" % number for number in range(5)]


@pytest.mark.parametrize("stalls", [1, 3, 1_000])
@on_both_loops
async def test_a_large_stream_is_pumped_whole(stalls):
    """In bursts as large as an event loop hands over; the client has to be waited for after some of the pieces."""
    size = 4_000_000
    pieces = length = 0

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"x" * size)
        await writer.drain()

    def sink(piece):
        nonlocal pieces, length
        pieces, length = pieces + 1, length + len(piece)
        return pieces % stalls != 0

    async def drained():
        await asyncio.sleep(0)

    made = HttpTransport(connections=1, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)
    async with serving(peer) as url:
        answer = await made.send(post(url))
        async with asyncio.timeout(BOUND_S):
            await answer.pump(sink, drained)
        answer.release()
    assert length == size
    await made.close()
