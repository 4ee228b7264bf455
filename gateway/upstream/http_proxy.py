"""Requests to providers through the environment's proxies, on aiohttp's client session, behind the port of
`gateway.upstream.base`. Where there is none, `gateway.upstream.transport` costs a fraction of the CPU.
aiohttp repeats GET and its like once where a kept-alive connection breaks, which is safe, and nothing else.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import ClientResponse
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from gateway.upstream.base import (
    UPLOAD_BYTES_PER_S,
    IteratedResponse,
    UpstreamCut,
    UpstreamError,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)

if TYPE_CHECKING:
    from gateway.upstream.base import ConnectionSlots, RawHeaders

READ_BUFFER_BYTES: Final = 65_536  # per answer; reading stops at twice that until the reader has caught up
IN_PIECES_BYTES: Final = 262_144  # larger bodies are written piece by piece, as the socket takes them
_NO_DEFAULTS = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})  # aiohttp would add its own


OnRelease = Callable[["ProxiedResponse"], None]


class ProxiedResponse(IteratedResponse):
    """An answer whose head has arrived, with its connection."""

    def __init__(self, response: ClientResponse, host: str, timeout_s: float, on_release: OnRelease) -> None:
        super().__init__()
        self._on_release: OnRelease | None = on_release
        self._response = response
        self.of = host
        self._timeout_s = timeout_s
        self._closed = self._watch()

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return self._response.status

    @property
    def headers(self) -> RawHeaders:
        """Return the head as it came."""
        return self._response.raw_headers

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body, undecoded. Raises `UpstreamTooLarge` once the limit is passed, and what `chunks`
        raises.

        A read that was cancelled can be taken up by another.
        """
        announced = self._response.content_length
        if announced is not None and announced > limit_bytes:
            raise UpstreamTooLarge(f"{self.of}: the answer is above {limit_bytes} bytes")
        return await super().read(limit_bytes)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, undecoded. Raises `UpstreamTimeout` and `UpstreamCut`."""
        while chunk := await self._next():
            yield chunk

    async def _next(self) -> bytes:
        """Return what has arrived, at least a byte; nothing at the body's end."""
        try:
            chunk = await self._response.content.readany()
        except TimeoutError:
            raise UpstreamTimeout(f"{self.of}: silent for {self._timeout_s:g} s within its answer") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamCut(f"{self.of}: the answer broke off ({type(error).__name__})") from None
        if not chunk and self._ended_by_failure():
            raise UpstreamCut(f"{self.of}: the answer broke off (connection failed)")
        return chunk

    def release(self) -> None:
        """Close the connection, unless the body was read to its end: then it is back in the pool already."""
        on_release, self._on_release = self._on_release, None
        if on_release is not None:
            on_release(self)
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
        closed.remove_done_callback(_retrieve_exception)
        closed.add_done_callback(_retrieve_exception)
        closed.add_done_callback(self._lost)
        return closed

    def _lost(self, _: object = None) -> None:
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("connection lost"))

    def _ended_by_failure(self) -> bool:
        """Return whether a body that is ended by its connection alone was ended by the failure of that."""
        closed, headers = self._closed, self._response.headers
        if closed is None or not closed.done() or closed.cancelled() or closed.exception() is None:
            return False
        return "Content-Length" not in headers and "Transfer-Encoding" not in headers


class PendingAnswer:
    """An answer whose head may still come; a `base.Pending`."""

    __slots__ = ("_sending",)

    def __init__(self, sending: asyncio.Task[ProxiedResponse]) -> None:
        self._sending = sending

    async def head(self) -> ProxiedResponse:
        """Return the answer, when its head is here. Raises `UpstreamError`."""
        return await asyncio.shield(self._sending)

    def release(self) -> None:
        """Close the connection, now or as soon as a head that is on its way is here."""
        self._sending.add_done_callback(_release)
        self._sending.cancel()


class ProxiedTransport:
    """One session for one provider, used by `slots`. Made inside a running event loop; `close` it at the end."""

    def __init__(
        self, slots: ConnectionSlots, *, connect_timeout_s: float, timeout_s: float, keepalive_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._slots = slots
        self._answers: set[ProxiedResponse] = set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=keepalive_s),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_s, sock_read=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_NO_DEFAULTS,
            trace_configs=[_tracing()],
            read_bufsize=READ_BUFFER_BYTES,
        )

    async def send(self, request: UpstreamRequest, proxy: URL) -> ProxiedResponse:
        """Return the answer's head. Raises `UpstreamBusy`, `UpstreamUnreachable` and `UpstreamTimeout`. See
        `Transport.send`."""
        sent = Sent(len(request.body))
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

    async def _send(self, request: UpstreamRequest, proxy: URL, sent: Sent) -> ProxiedResponse:
        url = URL(request.url)
        host = url.host or "no host"
        if not self._slots.acquire_now(request.account):
            await self._slots.wait(request.account, host, self._connect_timeout_s)
        try:
            response = await self._answer(request, url, host, proxy, sent)
        except BaseException:
            self._slots.release(request.account)
            raise
        answer = ProxiedResponse(response, host, self._timeout_s, partial(self._released, request.account))
        self._answers.add(answer)
        return answer

    def _released(self, account: str, answer: ProxiedResponse) -> None:
        self._answers.discard(answer)
        self._slots.release(account)

    async def _answer(self, request: UpstreamRequest, url: URL, host: str, proxy: URL, sent: Sent) -> ClientResponse:
        try:
            return await self._request(request, url, proxy, sent)
        except aiohttp.ConnectionTimeoutError:
            raise UpstreamUnreachable(f"{host}: no connection within {self._connect_timeout_s:g} s") from None
        except TimeoutError:
            raise UpstreamTimeout(f"{host}: no answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, HttpProcessingError, ConnectionError) as error:
            raise _unreachable(host, error) from None

    async def _request(self, request: UpstreamRequest, url: URL, proxy: URL, sent: Sent) -> ClientResponse:
        body = request.body
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
        for answer in list(self._answers):  # the session alone would not wake a reader that waits for a chunk
            answer.release()
        await self._session.close()


@dataclass(slots=True)
class Sent:
    """Whether a request's head has been written, and how many bytes of its body have not."""

    left_bytes: int
    head: bool = False

    @property
    def whole(self) -> bool:
        """Return whether all of the request has left."""
        return self.head and self.left_bytes <= 0


def _tracing() -> aiohttp.TraceConfig:
    """Return what has aiohttp note in each request's `Sent` what has been written."""

    async def head(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.head = True

    async def piece(_: object, context: SimpleNamespace, sent: aiohttp.TraceRequestChunkSentParams) -> None:
        context.trace_request_ctx.left_bytes -= len(sent.chunk)

    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(head)
    tracing.on_request_chunk_sent.append(piece)
    return tracing


def _release(sending: asyncio.Task[ProxiedResponse]) -> None:
    if not sending.cancelled() and sending.exception() is None:
        sending.result().release()


def _pairs(lines: bytes) -> CIMultiDict[str]:
    """Return header lines in the form of aiohttp's client."""
    pairs: CIMultiDict[str] = CIMultiDict()
    for line in lines.decode("utf-8", "surrogateescape").split("\r\n")[:-1]:
        name, _, value = line.partition(": ")
        pairs.add(name, value)
    return pairs


def _retrieve_exception(closed: asyncio.Future[None]) -> None:
    if not closed.cancelled():
        closed.exception()


def _unreachable(host: str, error: Exception) -> UpstreamError:
    reason = getattr(error, "strerror", None)
    kind = type(error).__name__
    return UpstreamUnreachable(f"{host}: no answer ({kind}: {reason})" if reason else f"{host}: no answer ({kind})")
