"""Kept-alive connections to providers, on aiohttp's own protocol and parser but without its client session's work.

A request whose body fits one write goes out as one piece of bytes and its answer's head comes back as parsed by
aiohttp, for less than half the CPU of a `ClientSession` request. This file owns the idle connections and their bound;
nothing is sent twice (see `gateway.transport`). Larger bodies and proxies go through the session.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp import ClientConnectionError, ServerDisconnectedError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

from gateway.upstream import UpstreamRequest, UpstreamUnreachable

FIRST_FINAL_STATUS: Final = 200
BODILESS: Final = ("GET", "HEAD", "OPTIONS")
MAX_INTERIM: Final = 8
"""Interim answers (1xx) before the final one; a provider that sends more is not answering."""


class DirectAnswer:
    """An answer on a pooled connection, with what `gateway.transport` asks of aiohttp's `ClientResponse`."""

    __slots__ = ("_give_back", "_open", "connection", "content", "headers", "protocol", "status")

    def __init__(
        self,
        protocol: ResponseHandler,
        message: RawResponseMessage,
        content: StreamReader,
        give_back: Callable[[ResponseHandler], None],
    ) -> None:
        self.protocol = protocol
        self.connection = self
        self.status = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        self._give_back = give_back
        self._open = True

    @property
    def content_length(self) -> int | None:
        """The body's length where the head says it."""
        said = self.headers.get("Content-Length")
        return int(said) if said is not None and said.isdecimal() else None

    def close(self) -> None:
        """Back into the pool when the body was read to its end, else closed."""
        if self._open:
            self._open = False
            if not self.content.is_eof() and self.content.exception() is None:
                self.content.set_exception(ClientConnectionError("Connection closed"))
            self._give_back(self.protocol)


class Origin:
    """Where connections go, and the idle ones."""

    __slots__ = ("host", "idle", "port", "tls")

    def __init__(self, url: URL) -> None:
        self.host = url.host or ""
        self.port = url.port or 443
        self.tls = url.scheme == "https"
        self.idle: list[tuple[ResponseHandler, float]] = []


class ConnectionPool:
    """Connections of one process to all providers, at most `connections` in use. Made inside a running event loop."""

    def __init__(
        self, *, connections: int, connect_timeout_s: float, timeout_s: float, keepalive_s: float, read_bufsize: int
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._keepalive_s = keepalive_s
        self._read_bufsize = read_bufsize
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(connections)
        self._origins: dict[tuple[str, str | None, int | None], Origin] = {}
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    async def send(self, request: UpstreamRequest, url: URL) -> DirectAnswer:
        """The answer's head. Raises what aiohttp's protocol raises, `TimeoutError` on silence, and
        `UpstreamUnreachable` where there is no connection in time."""
        origin = self._origin(url)
        message = _head(request, url) + request.body
        if self._free.locked():
            try:
                async with asyncio.timeout(self._connect_timeout_s):
                    await self._free.acquire()
            except TimeoutError:
                raise self._no_connection(origin) from None
        else:
            await self._free.acquire()
        try:
            protocol = self._idle(origin)
            if protocol is None:
                protocol = await self._connect(origin)
            return await self._exchange(origin, protocol, message)
        except BaseException:
            self._free.release()
            raise

    async def _exchange(self, origin: Origin, protocol: ResponseHandler, message: bytes) -> DirectAnswer:
        try:
            protocol.set_response_params(
                read_until_eof=True,
                auto_decompress=False,
                read_timeout=self._timeout_s,
                read_bufsize=self._read_bufsize,
            )
            transport = protocol.transport
            if transport is None:
                raise ServerDisconnectedError
            transport.write(message)
            protocol.start_timeout()
            for _ in range(MAX_INTERIM):
                head, content = await protocol.read()
                if head.code >= FIRST_FINAL_STATUS:
                    return DirectAnswer(protocol, head, content, lambda used: self._give_back(origin, used))
            raise ServerDisconnectedError
        except BaseException:
            protocol.close()
            raise

    def _origin(self, url: URL) -> Origin:
        name = (url.scheme, url.host, url.port)
        origin = self._origins.get(name)
        if origin is None:
            origin = self._origins[name] = Origin(url)
        return origin

    def _idle(self, origin: Origin) -> ResponseHandler | None:
        """The connection that idled least, if it can still be used."""
        while origin.idle:
            protocol, since = origin.idle.pop()
            fresh = self._loop.time() - since < self._keepalive_s
            if fresh and protocol.is_connected() and not protocol.should_close:
                return protocol
            protocol.close()
        return None

    async def _connect(self, origin: Origin) -> ResponseHandler:
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, protocol = await self._loop.create_connection(
                    lambda: ResponseHandler(self._loop),
                    origin.host,
                    origin.port,
                    ssl=self._tls if origin.tls else None,
                    server_hostname=origin.host if origin.tls else None,
                )
        except TimeoutError:
            raise self._no_connection(origin) from None
        except OSError as error:
            raise UpstreamUnreachable(
                f"{origin.host}: no connection ({error.strerror or type(error).__name__})"
            ) from None
        return protocol

    def _no_connection(self, origin: Origin) -> UpstreamUnreachable:
        return UpstreamUnreachable(f"{origin.host}: no connection within {self._connect_timeout_s:g} s")

    def _give_back(self, origin: Origin, protocol: ResponseHandler) -> None:
        self._free.release()
        if self._closed or protocol.should_close or not protocol.is_connected():
            protocol.close()
        else:
            origin.idle.append((protocol, self._loop.time()))

    def close(self) -> None:
        """Close idle connections; those in use are closed when they are given back."""
        self._closed = True
        for origin in self._origins.values():
            for protocol, _ in origin.idle:
                protocol.close()
            origin.idle.clear()


def _head(request: UpstreamRequest, url: URL) -> bytes:
    """The request's head. Raises `ValueError` for a header that would end a line early."""
    lines = [f"{request.method} {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if request.body or request.method not in BODILESS:
        lines.append(f"Content-Length: {len(request.body)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\0" in head:
        raise ValueError("a header holds a line break")
    return f"{head}\r\n\r\n".encode("utf-8", "surrogateescape")
