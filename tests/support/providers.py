"""Providers on loopback that answer well, badly, slowly or not at all, and what the transport makes of them."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.upstream.base import Pending, UpstreamError, UpstreamRequest, UpstreamResponse
from gateway.upstream.transport import HttpTransport

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BOUND_S = 60  # no test waits longer for anything
BODY = b'{"model":"m"}'
QUERY_SECRET = "sk-in-the-query"


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


class Answering:
    """A peer that gets one whole request whose sending is cancelled, and answers it where it is `taken_up`."""

    def __init__(self, *header_lines: bytes, taken_up: bool) -> None:
        self._head = b"\r\n".join((b"HTTP/1.1 200 OK", b"Content-Length: 4", *header_lines, b"", b""))
        self._taken_up = taken_up
        self._arrived, self._go_on = asyncio.Event(), asyncio.Event()
        self.stopped = asyncio.Event()
        """Once the connection has ended."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        self._arrived.set()
        if self._taken_up:
            await self._go_on.wait()
            writer.write(self._head + b"said")
        await reader.read()
        self.stopped.set()

    async def cancelled(self, transport: HttpTransport, request: UpstreamRequest) -> Pending:
        """Send a request, cancel that when it is here, and return what is left of it."""
        sending = asyncio.create_task(transport.send(request))
        await asyncio.wait_for(self._arrived.wait(), BOUND_S)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert request.pending is not None
        return request.pending

    async def answer(self, pending: Pending) -> UpstreamResponse:
        """Answer, and return the answer once its head is there."""
        self._go_on.set()
        return await asyncio.wait_for(pending.head(), BOUND_S)


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
