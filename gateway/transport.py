"""The transport to real providers: aiohttp's client behind the port of `gateway.upstream`. This file owns every
bound in time and memory on an answer, and what a failure is called; `gateway.pool` has the connections.

No request is sent twice here. When a pooled connection breaks before an answer began, nothing tells a connection that
the provider had closed while idle from a provider that took the request and died, and a POST must not be repeated
unless it is known not to have been applied (RFC 9110, 9.2.2; nginx and Go's client draw the same line). Idle
connections are watched by the event loop and leave the pool when the provider closes them, so what remains is a request
that crosses the close on the wire: `UpstreamUnreachable`, and routing decides. aiohttp repeats GET and its like once,
which is safe.

Redirects are not followed: they would carry the provider's key to another host. Proxies are those of the environment
(`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), looked up once per origin; `.netrc` is not read, as `trust_env` would.

A body with neither length nor chunks ends where its connection ends. A reset is told from an end, a connection that
was closed too early is not: whoever reads such a body has to know its end from its content (`[DONE]`, whole JSON).

Messages name the host and the kind of failure, never a path, a query or a header; the library's own errors hold the
whole URL and are not chained.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Final
from urllib.request import getproxies, proxy_bypass

from aiohttp import (
    ClientError,
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

from gateway.pool import ConnectionPool, DirectAnswer
from gateway.upstream import (
    UpstreamCut,
    UpstreamError,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)

KEEPALIVE_S: Final = 75.0  # how long a connection may idle in the pool
READ_BUFFER_BYTES: Final = 65_536  # per answer; reading stops at twice that until the reader has caught up
UPLOAD_BYTES_PER_S: Final = 65_536  # the slowest upload that is waited for
IN_PIECES_BYTES: Final = 262_144  # larger bodies are written piece by piece, as the socket takes them
ORIGINS_MAX: Final = 1_024  # origins whose proxy is remembered

# What the caller doesn't give is not sent; aiohttp would add its own.
_NO_DEFAULTS = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})


class AiohttpAnswer:
    """An answer whose head has arrived, with its connection."""

    __slots__ = ("_closed", "_host", "_length", "_open", "_parts", "_response", "_timeout_s")

    def __init__(
        self,
        response: ClientResponse | DirectAnswer,
        host: str,
        timeout_s: float,
        open_answers: "set[AiohttpAnswer]",
    ) -> None:
        """`open_answers` holds this answer until it is released."""
        self._response = response
        self._host = host
        self._timeout_s = timeout_s
        self._open = open_answers
        self._open.add(self)
        self._closed = self._watch()
        self._parts: list[bytes] = []
        self._length = 0

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The head as it came."""
        return self._response.headers

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body, undecoded. Raises `UpstreamTooLarge` once the limit is passed, and what `chunks` raises.

        A read that was cancelled can be taken up by another.
        """
        announced = self._response.content_length
        if announced is not None and announced > limit_bytes:
            raise self._too_large(limit_bytes)
        while chunk := await self._next():
            self._parts.append(chunk)
            self._length += len(chunk)
            if self._length > limit_bytes:
                raise self._too_large(limit_bytes)
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, undecoded. Raises `UpstreamTimeout` and `UpstreamCut`."""
        while chunk := await self._next():
            yield chunk

    async def _next(self) -> bytes:
        """What has arrived, at least a byte; nothing at the body's end."""
        try:
            chunk = await self._response.content.readany()
        except TimeoutError:
            raise UpstreamTimeout(f"{self._host}: silent for {self._timeout_s:g} s within its answer") from None
        except (ClientError, OSError) as error:
            raise UpstreamCut(f"{self._host}: the answer broke off ({type(error).__name__})") from None
        if not chunk and self._ended_by_failure():
            raise UpstreamCut(f"{self._host}: the answer broke off (connection failed)")
        return chunk

    def release(self) -> None:
        """Close the connection, unless the body was read to its end: then it is back in the pool already."""
        self._open.discard(self)
        if self._closed is not None:
            self._closed.remove_done_callback(self._lost)
        self._response.close()

    def _watch(self) -> asyncio.Future[None] | None:
        """Have `_lost` called when the connection is: aiohttp forgets to wake a reader when chunks are malformed."""
        connection = self._response.connection
        if connection is None or connection.protocol is None:
            return None  # the body is here already, or its failure is
        closed = connection.protocol.closed
        if closed is None:
            self._lost()
            return None
        # One of each per connection, however often it is used again; a failure that nobody looks at would be logged.
        closed.remove_done_callback(_look_at)
        closed.add_done_callback(_look_at)
        closed.add_done_callback(self._lost)
        return closed

    def _lost(self, _: object = None) -> None:
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(ClientPayloadError("connection lost"))

    def _ended_by_failure(self) -> bool:
        """Whether a body that is ended by its connection alone was ended by the failure of that."""
        closed, headers = self._closed, self._response.headers
        if closed is None or not closed.done() or closed.cancelled() or closed.exception() is None:
            return False
        return "Content-Length" not in headers and "Transfer-Encoding" not in headers

    def _too_large(self, limit_bytes: int) -> UpstreamTooLarge:
        return UpstreamTooLarge(f"{self._host}: the answer is above {limit_bytes} bytes")


class AiohttpTransport:
    """One pool of connections for every provider. Made inside a running event loop; `close` it at the end."""

    def __init__(self, *, connections: int, connect_timeout_s: float, timeout_s: float) -> None:
        """At most `connections` at once to all providers together; a request waits for one as long as for connecting.

        `timeout_s` is the longest silence of a provider. Raises `ValueError` unless all are above zero.
        """
        if connections < 1 or connect_timeout_s <= 0 or timeout_s <= 0:
            raise ValueError("connections, connect_timeout_s and timeout_s must be above zero")
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._answers: set[AiohttpAnswer] = set()
        self._proxies: dict[tuple[str, str | None, int | None], URL | None] = {}
        self._urls: dict[str, URL] = {}
        self._pool = ConnectionPool(
            connections=connections,
            connect_timeout_s=connect_timeout_s,
            timeout_s=timeout_s,
            keepalive_s=KEEPALIVE_S,
            read_bufsize=READ_BUFFER_BYTES,
        )
        self._session = ClientSession(
            connector=TCPConnector(limit=connections, limit_per_host=0, keepalive_timeout=KEEPALIVE_S),
            timeout=ClientTimeout(total=None, connect=connect_timeout_s, sock_read=timeout_s),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_NO_DEFAULTS,
            read_bufsize=READ_BUFFER_BYTES,
        )

    async def send(self, request: UpstreamRequest) -> AiohttpAnswer:
        """The answer's head. Raises `UpstreamUnreachable` and `UpstreamTimeout`."""
        url = self._urls.get(request.url)
        if url is None:
            if len(self._urls) >= ORIGINS_MAX:
                self._urls.clear()
            url = self._urls[request.url] = URL(request.url)
        host = url.host or "no host"
        proxy = self._proxy(url)
        try:
            response: ClientResponse | DirectAnswer
            if proxy is None and len(request.body) <= IN_PIECES_BYTES:
                response = await self._pool.send(request, url)
            else:
                response = await self._through_session(request, url, proxy)
        except ConnectionTimeoutError:
            raise UpstreamUnreachable(f"{host}: no connection within {self._connect_timeout_s:g} s") from None
        except TimeoutError:
            raise UpstreamTimeout(f"{host}: no answer within {self._timeout_s:g} s") from None
        except (ClientError, HttpProcessingError, ConnectionError) as error:
            raise _unreachable(host, error) from None
        return AiohttpAnswer(response, host, self._timeout_s, self._answers)

    async def _through_session(self, request: UpstreamRequest, url: URL, proxy: URL | None) -> ClientResponse:
        body = request.body
        # The silence is aiohttp's to watch, but it begins after the upload, which nothing else bounds.
        async with asyncio.timeout(self._connect_timeout_s + self._timeout_s + len(body) / UPLOAD_BYTES_PER_S):
            return await self._session.request(
                request.method,
                url,
                data=io.BytesIO(body) if len(body) > IN_PIECES_BYTES else body or None,
                headers=request.headers,
                allow_redirects=False,
                proxy=proxy,
            )

    async def close(self) -> None:
        """Close every connection; answers that are still being read are cut."""
        for answer in list(self._answers):  # the session alone would leave whoever waits for a chunk waiting
            answer.release()
        self._pool.close()
        await self._session.close()

    def _proxy(self, url: URL) -> URL | None:
        origin = (url.scheme, url.host, url.port)
        if origin not in self._proxies:
            if len(self._proxies) >= ORIGINS_MAX:
                self._proxies.clear()
            self._proxies[origin] = _environment_proxy(url)
        return self._proxies[origin]


def _environment_proxy(url: URL) -> URL | None:
    """The proxy that the environment names for a URL, with the credentials that stand in its address."""
    named = getproxies().get(url.scheme)
    if not named or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    return URL(named if "://" in named else f"http://{named}")


def _look_at(closed: asyncio.Future[None]) -> None:
    if not closed.cancelled():
        closed.exception()


def _unreachable(host: str, error: Exception) -> UpstreamError:
    reason = getattr(error, "strerror", None)
    kind = type(error).__name__
    return UpstreamUnreachable(f"{host}: no answer ({kind}: {reason})" if reason else f"{host}: no answer ({kind})")
