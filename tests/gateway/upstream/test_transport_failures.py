"""The transport against servers that answer badly, slowly or not at all."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.upstream.base import (
    UpstreamBusy,
    UpstreamCut,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.upstream.transport import HttpTransport
from tests.support.providers import (
    BOUND_S,
    Peer,
    app_serving,
    assert_no_secret,
    outcome,
    post,
    serving,
    take_request,
)

pytestmark = pytest.mark.slow


@pytest.fixture
async def impatient() -> AsyncIterator[HttpTransport]:
    """A transport that takes a second of silence for a timeout."""
    made = HttpTransport(connections=2, connect_timeout_s=1, timeout_s=1)
    yield made
    await made.close()


def abort(writer: asyncio.StreamWriter) -> None:
    """Reset the connection: no orderly end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def rest_of(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the rest of an answer."""
    return b"".join([chunk async for chunk in chunks])


def saying(answer: bytes) -> Peer:
    """A peer that answers anything with these bytes and closes."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(answer)
        await writer.drain()

    return peer


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"<html><body>hello</body></html>",
        b"HTTP/1.1 2",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nX-Nul: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_unreachable(transport, answer):
    async with serving(saying(answer)) as url:
        with pytest.raises(UpstreamUnreachable) as error:
            await outcome(transport, post(url))
    assert_no_secret(error)
    assert str(error.value).startswith("127.0.0.1: no answer")


async def test_html_is_an_answer_like_any_other(transport):
    html = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
    async with serving(saying(html)) as url:
        assert await outcome(transport, post(url)) == b"<html>"


async def test_a_refused_connection_is_unreachable(transport):
    async with serving(saying(b"")) as url:
        pass
    with pytest.raises(UpstreamUnreachable, match=r"refused|failed|call") as error:
        await outcome(transport, post(url))
    assert_no_secret(error)


@pytest.mark.parametrize("url", ["http://does-not-exist.invalid/x", "http://", "/relative", "ftp://127.0.0.1/x"])
async def test_what_cannot_be_connected_to_is_unreachable(transport, url):
    with pytest.raises(UpstreamUnreachable):
        await outcome(transport, post(url))


async def test_a_peer_without_tls_is_unreachable(transport):
    async def peer(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(peer) as url:
        with pytest.raises(UpstreamUnreachable) as error:
            await outcome(transport, post(url.replace("http:", "https:")))
    assert_no_secret(error)


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_request_that_crosses_the_close_of_an_idle_connection(transport, idempotent):
    """The provider closes a kept-alive connection as it takes the second request, without a byte of an answer: nobody
    knows whether it was served, so only one that may be repeated is."""
    requests = connections = 0

    async def peer(reader, writer):
        nonlocal requests, connections
        connections += 1
        await take_request(reader)
        requests += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        await take_request(reader)
        requests += 1

    headers = {"idempotency-Key": "one"} if idempotent else {}
    async with serving(peer) as url:
        assert await outcome(transport, post(url, headers=headers)) == b"ok"
        if idempotent:
            assert await outcome(transport, post(url, headers=headers)) == b"ok"
        else:
            with pytest.raises(UpstreamUnreachable):
                await outcome(transport, post(url))
        assert (requests, connections) == (3, 2) if idempotent else (2, 1)


@pytest.mark.parametrize("begun", [b"", b"H", b"HTTP/1.1 200 OK\r\nContent-Le"])
@pytest.mark.parametrize("served", [False, True])
async def test_no_other_request_is_sent_twice(transport, begun, served):
    """Neither over a new connection, nor where an answer had begun, nor a third time."""
    requests = 0

    async def peer(reader, writer):
        nonlocal requests
        if served and not requests:
            await take_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await take_request(reader)
        requests += 1
        writer.write(begun)

    headers = {"Idempotency-Key": "one"}
    async with serving(peer) as url:
        if served:
            assert await outcome(transport, post(url, headers=headers)) == b"ok"
        with pytest.raises(UpstreamUnreachable):
            await outcome(transport, post(url, headers=headers))
        assert requests == (2 if served and not begun else 1)


async def test_a_connection_closed_while_idle_is_not_used(transport):
    closed = []

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()
        closed.append(writer)

    async with serving(peer) as url:
        for served in range(1, 6):
            assert await outcome(transport, post(url)) == b"ok"
            async with asyncio.timeout(BOUND_S):
                while len(closed) < served or _idle(transport):
                    await asyncio.sleep(0.001)


async def test_a_connection_that_idled_is_looked_at_before_it_is_used(transport, monkeypatch):
    """The provider's close has arrived, but the event loop has not come to see it."""
    monkeypatch.setattr("gateway.upstream.transport.CHECKED_AFTER_S", 0.0)
    peers = []

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        peers.append(writer)
        await reader.read()

    async with serving(peer) as url:
        assert await outcome(transport, post(url)) == b"ok"
        socket_of_peer = peers[0].get_extra_info("socket")
        answering = asyncio.create_task(outcome(transport, post(url)))
        socket_of_peer._sock.shutdown(socket.SHUT_WR)  # before the loop polls again
        assert await answering == b"ok"
        assert len(peers) == 2


def _idle(transport: HttpTransport) -> int:
    """How many pooled connections are taken to be alive."""
    origins = transport._origins.values()
    return sum(connection.usable for origin in origins for connection, _ in origin.idle)


async def test_silence_before_the_answer_is_a_timeout(impatient):
    async def peer(reader, writer):
        await reader.read()

    async with serving(peer) as url:
        with pytest.raises(UpstreamTimeout, match="silent for 1 s") as error:
            await outcome(impatient, post(url))
    assert_no_secret(error)


async def test_silence_within_the_answer_is_a_timeout(impatient):
    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await reader.read()

    async with serving(peer) as url:
        answer = await impatient.send(post(url))
        chunks = answer.chunks()
        assert await anext(chunks) == b"half"
        with pytest.raises(UpstreamTimeout, match="within its answer") as error:
            await anext(chunks)
        answer.release()
    assert_no_secret(error)


async def test_a_provider_that_does_not_read_is_a_timeout():
    """No silence of the socket is watched during an upload, so the upload itself has its bound."""
    done = asyncio.Event()

    async def peer(reader, writer):
        await done.wait()

    transport = HttpTransport(connections=1, connect_timeout_s=1, timeout_s=0.2)
    async with serving(peer) as url:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gateway.upstream.transport.UPLOAD_BYTES_PER_S", 100_000_000)
            with pytest.raises(UpstreamTimeout):
                await outcome(transport, post(url, b"x" * 30_000_000))
        done.set()
    await transport.close()


async def test_a_slow_answer_that_is_never_silent_for_long_is_no_timeout():
    transport = HttpTransport(connections=1, connect_timeout_s=30, timeout_s=2)

    async def handler(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(25):
            await response.write(b"x")
            await asyncio.sleep(0.1)
        return response

    async with app_serving(handler) as url:
        assert await outcome(transport, post(url)) == b"x" * 25
    await transport.close()


async def test_a_slow_reader_is_no_silence_of_the_provider():
    """While reading is paused by back-pressure the provider's silence is not counted."""
    transport = HttpTransport(connections=1, connect_timeout_s=30, timeout_s=1.5)
    size = 30_000_000

    async def handler(request):
        return web.Response(body=b"x" * size)

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        length = 0
        async for chunk in answer.chunks():
            if not length:
                await asyncio.sleep(2.5)
            length += len(chunk)
        answer.release()
    assert length == size
    await transport.close()


async def test_waiting_for_a_free_connection_is_bounded(impatient):
    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nbegun")
        await reader.read()

    async with serving(peer) as url:
        answers = [await impatient.send(post(url)) for _ in range(2)]
        with pytest.raises(UpstreamBusy, match="no free connection within 1 s") as error:
            await outcome(impatient, post(url))
        for answer in answers:
            answer.release()
    assert_no_secret(error)


async def test_a_turn_that_comes_too_late_is_passed_on():
    """Whoever waited for a connection and gave up as it became free leaves it to the next."""
    transport = HttpTransport(connections=1, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)

    async def handler(request):
        return web.Response(text="ok")

    async with app_serving(handler) as url, asyncio.timeout(BOUND_S):
        first = await transport.send(post(url))
        late, next_one = [asyncio.create_task(outcome(transport, post(url))) for _ in range(2)]
        for _ in range(10):
            await asyncio.sleep(0)
        first.release()
        late.cancel()
        assert await next_one == b"ok"
        with pytest.raises(asyncio.CancelledError):
            await late
        assert await outcome(transport, post(url)) == b"ok"
    await transport.close()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("framing", "begun", "rest"),
    [
        (b"Content-Length: 100", b"half", b""),
        (b"Transfer-Encoding: chunked", b"4\r\nhalf\r\n", b""),
        (b"Transfer-Encoding: chunked", b"4\r\nhalf\r\n", b"7\r\nba"),
        (b"Transfer-Encoding: chunked", b"4\r\nhalf\r\n", b"not a length\r\n"),
    ],
)
async def test_an_answer_without_its_end_is_cut(transport, framing, begun, rest, reset):
    taken = asyncio.Event()

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + begun)
        await taken.wait()
        writer.write(rest)
        if reset:
            abort(writer)

    async with serving(peer) as url:
        answer = await transport.send(post(url))
        chunks = answer.chunks()
        assert await anext(chunks) == b"half"
        taken.set()
        with pytest.raises(UpstreamCut, match="broke off") as error:
            await asyncio.wait_for(rest_of(chunks), BOUND_S)
        answer.release()
    assert_no_secret(error)


async def test_a_reset_ends_no_body_that_only_its_connection_ends(transport):
    taken = asyncio.Event()
    reset = True

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n")
        await taken.wait()
        if reset:
            abort(writer)

    async with serving(peer) as url:
        answer = await transport.send(post(url))
        chunks = answer.chunks()
        assert await anext(chunks) == b"data: 1\n\n"
        taken.set()
        with pytest.raises(UpstreamCut):
            await asyncio.wait_for(rest_of(chunks), BOUND_S)
        answer.release()
        reset = False
        assert await outcome(transport, post(url)) == b"data: 1\n\n"


async def test_a_whole_body_is_whole_though_the_connection_is_reset_after_it(transport):
    taken = asyncio.Event()

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
        await taken.wait()
        abort(writer)

    async with serving(peer) as url:
        answer = await transport.send(post(url))
        taken.set()
        async with asyncio.timeout(BOUND_S):
            while _idle(transport):
                await asyncio.sleep(0.001)
        assert await answer.read(100) == b"body"
        answer.release()


@pytest.mark.parametrize("waiting", [True, False])
async def test_closing_the_transport_cuts_what_is_being_read(transport, waiting):
    async def peer(reader, writer):
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await reader.read()

    async def next_of(chunks):
        return await anext(chunks)

    async with serving(peer) as url:
        answer = await transport.send(post(url))
        chunks = answer.chunks()
        assert await anext(chunks) == b"half"
        more = asyncio.create_task(next_of(chunks))
        if waiting:
            await asyncio.sleep(0)
        await transport.close()
        with pytest.raises(UpstreamCut):
            await asyncio.wait_for(more, BOUND_S)
        answer.release()
