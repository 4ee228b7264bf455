"""The transport against real servers on loopback that answer well, badly, slowly or not at all."""

import asyncio
import gzip
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import structs
from multidict import CIMultiDict

from gateway.upstream.base import (
    UpstreamBusy,
    UpstreamCut,
    UpstreamError,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)
from gateway.upstream.transport import HttpTransport
from tests.support.edge_servers import on_both_loops

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BOUND_S = 60  # no test waits longer for anything
BODY = b'{"model":"m"}'
QUERY_SECRET = "sk-in-the-query"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    made = HttpTransport(connections=10, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)
    yield made
    await made.close()


@pytest.fixture
async def impatient() -> AsyncIterator[HttpTransport]:
    """A transport that takes a second of silence for a timeout."""
    made = HttpTransport(connections=2, connect_timeout_s=1, timeout_s=1)
    yield made
    await made.close()


@asynccontextmanager
async def serving(peer: Peer) -> AsyncIterator[str]:
    """A TCP server that speaks as `peer` does; the URL to post to."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await peer(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1/chat/completions?key={QUERY_SECRET}"
    finally:
        server.close()


@asynccontextmanager
async def app_serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """An aiohttp server with one handler for every path."""
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        yield str(server.make_url(f"/v1/chat/completions?key={QUERY_SECRET}"))


def post(url: str, body: bytes = BODY, headers: dict[str, str] | None = None) -> UpstreamRequest:
    sent = {"Content-Type": "application/json", "Accept-Encoding": "identity", **(headers or {})}
    return UpstreamRequest(url, lines(sent), body)


def lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


async def take_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request with a Content-Length; its head."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(length)
    return head


def abort(writer: asyncio.StreamWriter) -> None:
    """Reset the connection: no orderly end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def rest_of(chunks: AsyncIterator[bytes]) -> bytes:
    """Whatever still comes."""
    return b"".join([chunk async for chunk in chunks])


def saying(answer: bytes) -> Peer:
    """A peer that answers anything with these bytes and closes."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(answer)
        await writer.drain()

    return peer


async def outcome(transport: HttpTransport, request: UpstreamRequest) -> bytes:
    """Send and read whole; the errors come through."""
    async with asyncio.timeout(BOUND_S):
        answer = await transport.send(request)
        try:
            return await answer.read(10_000_000)
        finally:
            answer.release()


def assert_no_secret(error: pytest.ExceptionInfo[UpstreamError]) -> None:
    shown = "".join(traceback.format_exception(error.value)) + repr(error.value)
    assert QUERY_SECRET not in shown
    assert "/v1/chat" not in str(error.value)


async def test_request_and_answer_pass_unchanged(transport: HttpTransport) -> None:
    seen: dict[str, object] = {}

    async def handler(request: web.Request) -> web.Response:
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


async def test_nothing_is_added_that_the_caller_did_not_give(transport: HttpTransport) -> None:
    heads: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await take_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with serving(peer) as url:
        assert await outcome(transport, UpstreamRequest(url, b"", b"x")) == b""
    names = {line.split(b":")[0].lower() for line in heads[0].split(b"\r\n")[1:] if line}
    assert names == {b"host", b"content-length"}


async def test_a_get_has_no_body(transport: HttpTransport) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.method} {request.headers.get('Content-Length')}")

    async with app_serving(handler) as url:
        assert await outcome(transport, UpstreamRequest(url, b"", b"", "GET")) == b"GET None"


async def test_a_large_body_arrives_whole(transport: HttpTransport) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.headers['Content-Length']} {len(await request.read())}")

    body = b"x" * 8_000_000
    async with app_serving(handler) as url:
        assert await outcome(transport, post(url, body)) == b"8000000 8000000"


async def test_connections_are_used_again_after_whole_answers_alone(transport: HttpTransport) -> None:
    connections: set[object] = set()

    async def handler(request: web.Request) -> web.StreamResponse:
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


async def test_release_in_the_middle_stops_the_provider(transport: HttpTransport) -> None:
    stopped = asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
async def test_a_cancelled_send_leaves_its_answer_to_whoever_takes_it(transport: HttpTransport, taken_up: bool) -> None:
    arrived, go_on, stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        arrived.set()
        if taken_up:
            await go_on.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsaid")
        await reader.read()
        stopped.set()

    async with serving(peer) as url:
        request = post(url)
        sending = asyncio.create_task(transport.send(request))
        await asyncio.wait_for(arrived.wait(), BOUND_S)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        pending = request.pending
        assert pending is not None
        if taken_up:
            go_on.set()
            answer = await asyncio.wait_for(pending.head(), BOUND_S)
            assert (answer.status, await answer.read(100)) == (200, b"said")
            answer.release()
            await transport.close()
        else:
            pending.release()
        await asyncio.wait_for(stopped.wait(), BOUND_S)


async def test_a_cancelled_send_of_which_not_all_has_left_is_none(transport: HttpTransport) -> None:
    """The provider has not got it, and can't have begun to work."""
    arrived, stopped = asyncio.Event(), asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
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
async def test_what_is_not_http_is_unreachable(transport: HttpTransport, answer: bytes) -> None:
    async with serving(saying(answer)) as url:
        with pytest.raises(UpstreamUnreachable) as error:
            await outcome(transport, post(url))
    assert_no_secret(error)
    assert str(error.value).startswith("127.0.0.1: no answer")


async def test_html_is_an_answer_like_any_other(transport: HttpTransport) -> None:
    html = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
    async with serving(saying(html)) as url:
        assert await outcome(transport, post(url)) == b"<html>"


async def test_a_refused_connection_is_unreachable(transport: HttpTransport) -> None:
    async with serving(saying(b"")) as url:
        pass
    with pytest.raises(UpstreamUnreachable, match=r"refused|failed|call") as error:
        await outcome(transport, post(url))
    assert_no_secret(error)


@pytest.mark.parametrize("url", ["http://does-not-exist.invalid/x", "http://", "/relative", "ftp://127.0.0.1/x"])
async def test_what_cannot_be_connected_to_is_unreachable(transport: HttpTransport, url: str) -> None:
    with pytest.raises(UpstreamUnreachable):
        await outcome(transport, post(url))


async def test_a_peer_without_tls_is_unreachable(transport: HttpTransport) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(peer) as url:
        with pytest.raises(UpstreamUnreachable) as error:
            await outcome(transport, post(url.replace("http:", "https:")))
    assert_no_secret(error)


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_request_that_crosses_the_close_of_an_idle_connection(
    transport: HttpTransport, idempotent: bool
) -> None:
    """The provider closes a kept-alive connection as it takes the second request, without a byte of an answer: nobody
    knows whether it was served, so only one that may be repeated is."""
    requests = connections = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
async def test_no_other_request_is_sent_twice(transport: HttpTransport, begun: bytes, served: bool) -> None:
    """Neither over a new connection, nor where an answer had begun, nor a third time."""
    requests = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


async def test_a_connection_closed_while_idle_is_not_used(transport: HttpTransport) -> None:
    closed: list[asyncio.StreamWriter] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


async def test_a_connection_that_idled_is_looked_at_before_it_is_used(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider's close has arrived, but the event loop has not come to see it."""
    monkeypatch.setattr("gateway.upstream.pool.LOOKED_AT_AFTER_S", 0.0)
    peers: list[asyncio.StreamWriter] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
    origins = transport._pool._origins.values()
    return sum(connection.usable for origin in origins for connection, _ in origin.idle)


async def test_silence_before_the_answer_is_a_timeout(impatient: HttpTransport) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(peer) as url:
        with pytest.raises(UpstreamTimeout, match="silent for 1 s") as error:
            await outcome(impatient, post(url))
    assert_no_secret(error)


async def test_silence_within_the_answer_is_a_timeout(impatient: HttpTransport) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


async def test_a_provider_that_does_not_read_is_a_timeout() -> None:
    """No silence of the socket is watched during an upload, so the upload itself has its bound."""
    done = asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()

    transport = HttpTransport(connections=1, connect_timeout_s=1, timeout_s=0.2)
    async with serving(peer) as url:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gateway.upstream.pool.UPLOAD_BYTES_PER_S", 100_000_000)
            with pytest.raises(UpstreamTimeout):
                await outcome(transport, post(url, b"x" * 30_000_000))
        done.set()
    await transport.close()


async def test_a_slow_answer_that_is_never_silent_for_long_is_no_timeout() -> None:
    transport = HttpTransport(connections=1, connect_timeout_s=30, timeout_s=2)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(25):
            await response.write(b"x")
            await asyncio.sleep(0.1)
        return response

    async with app_serving(handler) as url:
        assert await outcome(transport, post(url)) == b"x" * 25
    await transport.close()


async def test_a_slow_reader_is_no_silence_of_the_provider() -> None:
    """While reading is paused by back-pressure the provider's silence is not counted."""
    transport = HttpTransport(connections=1, connect_timeout_s=30, timeout_s=1.5)
    size = 30_000_000

    async def handler(request: web.Request) -> web.Response:
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


async def test_waiting_for_a_free_connection_is_bounded(impatient: HttpTransport) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


async def test_a_turn_that_comes_too_late_is_passed_on() -> None:
    """Whoever waited for a connection and gave up as it became free leaves it to the next."""
    transport = HttpTransport(connections=1, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)

    async def handler(request: web.Request) -> web.Response:
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
async def test_an_answer_without_its_end_is_cut(
    transport: HttpTransport, framing: bytes, begun: bytes, rest: bytes, reset: bool
) -> None:
    taken = asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


async def test_a_reset_ends_no_body_that_only_its_connection_ends(transport: HttpTransport) -> None:
    taken = asyncio.Event()
    reset = True

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


async def test_a_whole_body_is_whole_though_the_connection_is_reset_after_it(transport: HttpTransport) -> None:
    taken = asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
async def test_closing_the_transport_cuts_what_is_being_read(transport: HttpTransport, waiting: bool) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await reader.read()

    async def next_of(chunks: AsyncIterator[bytes]) -> bytes:
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


async def test_a_compressed_answer_passes_undecoded(transport: HttpTransport) -> None:
    packed = gzip.compress(b'{"usage":{}}')

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        assert dict(answer.headers)[b"Content-Encoding"] == b"gzip"
        assert await answer.read(1_000) == packed
        answer.release()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_huge_answer_stops_at_the_limit(transport: HttpTransport, announced: bool) -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
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


async def test_an_answer_of_just_the_limit_is_read(transport: HttpTransport) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1_000)

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        assert len(await answer.read(1_000)) == 1_000
        answer.release()


async def test_a_reader_that_stops_holds_the_provider_back(transport: HttpTransport) -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
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


async def test_events_arrive_one_by_one(transport: HttpTransport) -> None:
    taken = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
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
async def test_a_large_stream_is_pumped_whole(stalls: int) -> None:
    """In bursts as large as an event loop hands over; the client has to be waited for after some of the pieces."""
    size = 4_000_000
    pieces = length = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"x" * size)
        await writer.drain()

    def sink(piece: bytes) -> bool:
        nonlocal pieces, length
        pieces, length = pieces + 1, length + len(piece)
        return pieces % stalls != 0

    async def drained() -> None:
        await asyncio.sleep(0)

    made = HttpTransport(connections=1, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)
    async with serving(peer) as url:
        answer = await made.send(post(url))
        async with asyncio.timeout(BOUND_S):
            await answer.pump(sink, drained)
        answer.release()
    assert length == size
    await made.close()


async def test_redirects_are_answers(transport: HttpTransport) -> None:
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with app_serving(handler) as url:
        answer = await transport.send(post(url))
        assert answer.status == 307
        answer.release()
    assert calls == 1


async def test_cookies_are_not_kept(transport: HttpTransport) -> None:
    cookies: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "a=1; Path=/"})

    async with app_serving(handler) as url:
        for _ in range(2):
            await outcome(transport, post(url.replace("127.0.0.1", "localhost")))
    assert cookies == [None, None]


async def test_the_environment_s_proxy_is_used_with_its_credentials(
    monkeypatch: pytest.MonkeyPatch, transport: HttpTransport
) -> None:
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await take_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with serving(proxy) as url:
        monkeypatch.setenv("http_proxy", f"http://user:pass@{url.split('/')[2]}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert (
            await outcome(
                transport, post("http://provider.invalid/v1/x", headers={"Authorization": "Bearer sk-provider"})
            )
            == b"ok"
        )
        assert heads[0].startswith(b"POST http://provider.invalid/v1/x HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in heads[0]
        assert b"Authorization: Bearer sk-provider\r\n" in heads[0]
        assert await outcome(transport, post(url)) == b"ok"
        assert heads[1].startswith(b"POST /v1/chat/completions")
        assert b"Proxy-Authorization" not in heads[1]


@pytest.mark.parametrize("taken_up", [False, True])
@pytest.mark.parametrize("size", [4, 500_000])
async def test_a_cancelled_send_through_a_proxy_leaves_its_answer_too(
    monkeypatch: pytest.MonkeyPatch, transport: HttpTransport, size: int, taken_up: bool
) -> None:
    arrived, go_on, stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        arrived.set()
        if taken_up:
            await go_on.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsaid")
        await reader.read()
        stopped.set()

    async with serving(proxy) as url:
        monkeypatch.setenv("http_proxy", url.rpartition("/v1")[0] or url)
        monkeypatch.delenv("no_proxy")
        request = post("http://provider.invalid/v1/x", body=b"x" * size)
        sending = asyncio.create_task(transport.send(request))
        await asyncio.wait_for(arrived.wait(), BOUND_S)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        pending = request.pending
        assert pending is not None
        if taken_up:
            go_on.set()
            answer = await asyncio.wait_for(pending.head(), BOUND_S)
            assert (answer.status, await answer.read(100)) == (200, b"said")
            assert answer.taken() == b"said"
            answer.release()
        else:
            pending.release()
        await asyncio.wait_for(stopped.wait(), BOUND_S)


async def test_a_cancelled_send_that_reached_no_proxy_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, transport: HttpTransport
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.delenv("no_proxy")
        request = post("http://provider.invalid/v1/x", body=b"x" * (32 << 20))
        sending = asyncio.create_task(transport.send(request))
        await asyncio.sleep(0.05)  # however far it gets, nobody takes all of it
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert request.pending is None


async def test_netrc_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, transport: HttpTransport
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=request.headers.get("Authorization", "none"))

    async with app_serving(handler) as url:
        assert await outcome(transport, post(url)) == b"none"
        assert await outcome(transport, post(url, headers={"Authorization": "Bearer sk"})) == b"Bearer sk"


@pytest.mark.parametrize(("connections", "connect_timeout_s", "timeout_s"), [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
async def test_bounds_are_above_zero(connections: int, connect_timeout_s: float, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        HttpTransport(connections=connections, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s)


async def test_one_account_can_t_take_every_connection() -> None:
    transport = HttpTransport(connections=3, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)

    async def handler(request: web.Request) -> web.Response:
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
