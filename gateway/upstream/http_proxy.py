"""Requests to providers through the environment's proxies, on aiohttp's client session, behind the port of
`gateway.upstream.base`. What has no proxy goes over `gateway.upstream.pool`, which costs a fraction of the CPU.

aiohttp repeats GET and its like once where a kept-alive connection breaks, which is safe, and nothing else.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import SimpleNamespace
from typing import Final

from aiohttp import (
    ClientError,
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
    TraceConfig,
    TraceRequestChunkSentParams,
    TraceRequestHeadersSentParams,
)
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from gateway.upstream.base import (
    Drained,
    Sink,
    UpstreamCut,
    UpstreamError,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
    pump_chunks,
)
from gateway.upstream.headers import RawHeaders
from gateway.upstream.pool import UPLOAD_BYTES_PER_S
from gateway.upstream.turns import Turns

READ_BUFFER_BYTES: Final = 65_536  # per answer; reading stops at twice that until the reader has caught up
IN_PIECES_BYTES: Final = 262_144  # larger bodies are written piece by piece, as the socket takes them

# What the caller doesn't give is not sent; aiohttp would add its own.
_NO_DEFAULTS = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})


class ProxiedResponse:
    """An answer whose head has arrived, with its connection."""

    __slots__ = ("_closed", "_give_back", "_host", "_length", "_open", "_parts", "_response", "_timeout_s")

    def __init__(
        self,
        response: ClientResponse,
        host: str,
        timeout_s: float,
        open_answers: "set[ProxiedResponse]",
        give_back: Callable[[], None],
    ) -> None:
        """`open_answers` holds this answer until it is released; `give_back` is called then."""
        self._give_back = give_back
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
    def headers(self) -> RawHeaders:
        """The head as it came."""
        return self._response.raw_headers

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

    def taken(self) -> bytes:
        """What `read` has of the body so far."""
        return b"".join(self._parts)

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

    async def pump(self, sink: Sink, drained: Drained) -> None:
        """As `UpstreamResponse.pump`."""
        await pump_chunks(self.chunks(), sink, drained)

    def release(self) -> None:
        """Close the connection, unless the body was read to its end: then it is back in the pool already."""
        if self in self._open:
            self._open.remove(self)
            self._give_back()
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


class PendingAnswer:
    """An answer whose head may still come; a `base.Pending`."""

    __slots__ = ("_sending",)

    def __init__(self, sending: "asyncio.Task[ProxiedResponse]") -> None:
        self._sending = sending

    async def head(self) -> ProxiedResponse:
        """The answer, when its head is here. Raises `UpstreamError`."""
        return await asyncio.shield(self._sending)

    def release(self) -> None:
        """Close the connection, now or as soon as a head that is on its way is here."""
        self._sending.add_done_callback(_release)
        self._sending.cancel()


class ProxiedTransport:
    """One session for one provider, used by `turns`. Made inside a running event loop; `close` it at the end."""

    def __init__(self, turns: Turns, *, connect_timeout_s: float, timeout_s: float, keepalive_s: float) -> None:
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._turns = turns
        self._answers: set[ProxiedResponse] = set()
        self._session = ClientSession(
            connector=TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=keepalive_s),
            timeout=ClientTimeout(total=None, connect=connect_timeout_s, sock_read=timeout_s),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_NO_DEFAULTS,
            trace_configs=[_tracing()],
            read_bufsize=READ_BUFFER_BYTES,
        )

    async def send(self, request: UpstreamRequest, proxy: URL) -> ProxiedResponse:
        """The answer's head. Raises `UpstreamBusy`, `UpstreamUnreachable` and `UpstreamTimeout`. See
        `Transport.send`."""
        sent = Sent()
        sending = asyncio.ensure_future(self._send(request, proxy, sent))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            pending = PendingAnswer(sending)
            if sent.whole:
                request.pending = pending
            else:
                pending.release()
            raise

    async def _send(self, request: UpstreamRequest, proxy: URL, sent: "Sent") -> ProxiedResponse:
        url = URL(request.url)
        host = url.host or "no host"
        if not self._turns.take(request.account):
            await self._turns.wait(request.account, host, self._connect_timeout_s)
        try:
            return await self._answer(request, url, host, proxy, sent)
        except BaseException:
            self._turns.give(request.account)
            raise

    async def _answer(self, request: UpstreamRequest, url: URL, host: str, proxy: URL, sent: "Sent") -> ProxiedResponse:
        try:
            response = await self._request(request, url, proxy, sent)
        except ConnectionTimeoutError:
            raise UpstreamUnreachable(f"{host}: no connection within {self._connect_timeout_s:g} s") from None
        except TimeoutError:
            raise UpstreamTimeout(f"{host}: no answer within {self._timeout_s:g} s") from None
        except (ClientError, HttpProcessingError, ConnectionError) as error:
            raise _unreachable(host, error) from None
        return ProxiedResponse(
            response, host, self._timeout_s, self._answers, partial(self._turns.give, request.account)
        )

    async def _request(self, request: UpstreamRequest, url: URL, proxy: URL, sent: "Sent") -> ClientResponse:
        body = request.body
        sent.left_bytes = len(body)
        # The silence is aiohttp's to watch, but it begins after the upload, which nothing else bounds.
        async with asyncio.timeout(self._connect_timeout_s + self._timeout_s + len(body) / UPLOAD_BYTES_PER_S):
            return await self._session.request(
                request.method,
                url,
                data=io.BytesIO(body) if len(body) > IN_PIECES_BYTES else body or None,
                headers=_pairs(request.headers),
                allow_redirects=False,
                proxy=proxy,
                trace_request_ctx=sent,
            )

    async def close(self) -> None:
        """Close every connection; answers that are still being read are cut."""
        for answer in list(self._answers):  # the session alone would leave whoever waits for a chunk waiting
            answer.release()
        await self._session.close()


class Sent:
    """How much of a request is still to be written."""

    __slots__ = ("head", "left_bytes")

    def __init__(self) -> None:
        self.head = False
        self.left_bytes = 0

    @property
    def whole(self) -> bool:
        return self.head and self.left_bytes <= 0


def _tracing() -> TraceConfig:
    """Has aiohttp tell each request's `Sent` what has been written."""

    async def head(_: ClientSession, context: SimpleNamespace, __: TraceRequestHeadersSentParams) -> None:
        context.trace_request_ctx.head = True

    async def piece(_: ClientSession, context: SimpleNamespace, said: TraceRequestChunkSentParams) -> None:
        context.trace_request_ctx.left_bytes -= len(said.chunk)

    tracing = TraceConfig()
    tracing.on_request_headers_sent.append(head)
    tracing.on_request_chunk_sent.append(piece)
    return tracing


def _release(sending: "asyncio.Task[ProxiedResponse]") -> None:
    if not sending.cancelled() and sending.exception() is None:
        sending.result().release()


def _pairs(lines: bytes) -> CIMultiDict[str]:
    """Header lines as aiohttp's client takes them."""
    pairs: CIMultiDict[str] = CIMultiDict()
    for line in lines.decode("utf-8", "surrogateescape").split("\r\n")[:-1]:
        name, _, value = line.partition(": ")
        pairs.add(name, value)
    return pairs


def _look_at(closed: asyncio.Future[None]) -> None:
    if not closed.cancelled():
        closed.exception()


def _unreachable(host: str, error: Exception) -> UpstreamError:
    reason = getattr(error, "strerror", None)
    kind = type(error).__name__
    return UpstreamUnreachable(f"{host}: no answer ({kind}: {reason})" if reason else f"{host}: no answer ({kind})")
