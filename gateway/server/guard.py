"""What a client costs that shows no key: the part of a connection that holds it to bounds before anything is served.

This file owns, for whatever a connection sends: nothing is decompressed here; a head is bounded in bytes and in time;
of a body that nobody wanted a bounded rest is read, and no body faster than `gateway.server.paced` lets it; of what is
no request not a byte is kept or logged, and it is answered in the envelope; and no trailer is ever taken for a header
(`gateway.server.heads` says why one could be).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import EMPTY_PAYLOAD, StreamReader, web

from gateway.server import refusals
from gateway.server.aiohttp_private import ERROR, HttpProcessingError, LineTooLong, RawRequestMessage
from gateway.server.cors import Cors
from gateway.server.exchange import WRITE_TIMEOUT_S, Exchange
from gateway.server.heads import LOOKED_BACK_BYTES, ChunkedEnd
from gateway.server.paced import PacedProtocol
from gateway.server.plain import Written
from gateway.server.stalls import cut_where_stalled

if TYPE_CHECKING:
    from gateway.server.heads import Heads
    from gateway.server.paced import Pace

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 65_536
"""Of a head that does not come in one piece; a single line is bounded by aiohttp, at 8 KiB."""


@dataclass(frozen=True, slots=True)
class EdgeRules:
    """What the edge follows of the configuration."""

    linger_s: float = 2.0
    linger_bytes: int = 16 << 20
    head_timeout_s: float = 10.0
    max_connections: int = 10_000
    body_bytes_per_s: int = 32 << 20
    write_timeout_s: float = WRITE_TIMEOUT_S
    cors: Cors | None = None
    """The answers to browsers; None where there are none."""
    head_bytes: int = 32 << 20


BUFFER_BYTES: Final = 131_072
"""Of a body that nobody has taken yet twice as much is kept, and a sixteenth of this in chunks: what aiohttp parses
without a break."""
OPTIONS: Final[dict[str, Any]] = {
    "auto_decompress": False,
    "read_bufsize": BUFFER_BYTES,
    "lingering_time": 0.0,
    "access_log": None,
    "logger": logger,
}
"""What aiohttp would do by itself and this file sees to: it decompresses nothing, lingers not, logs no request."""


class GuardedProtocol(PacedProtocol):
    """aiohttp's connection within those bounds. Who extends it calls `_await_head` for bytes of a head that is not
    whole yet, and `_look` where something is queued or `_chunks` is not None."""

    __slots__ = (
        "_chunks",
        "_deaf",
        "_exchange",
        "_head_bytes",
        "_head_end",
        "_heads",
        "_new_id",
        "_proven",
        "_request",
        "_rules",
        "_untaken_since_s",
        "_unwanted",
    )

    def __init__(
        self, manager: web.Server, rules: EdgeRules, pace: Pace, heads: Heads, new_id: Callable[[], str], **options: Any
    ) -> None:
        super().__init__(manager, pace, **{**options, **OPTIONS})
        self._rules = rules
        self._heads = heads
        self._untaken_since_s: float | None = None
        """Since when the client has not taken an answer of the application, by the loop's clock."""
        self._new_id = new_id
        self._exchange: Exchange | None = None
        self._request: web.BaseRequest | None = None
        """What the application serves, from when it was taken from the queue until its answer is written."""
        self._head_bytes = 0
        self._head_end = b""
        self._chunks: ChunkedEnd | None = None
        """A chunked request whose end has not come."""
        self._proven: StreamReader | None = None
        """The body of the last one that is known to have had no trailers."""
        self._deaf = False
        """Whether nothing more that comes is read."""
        self._unwanted: StreamReader | None = None
        """A body that was answered before its end, while its rest is read."""

    @property
    def idle_until_s(self) -> float | None:
        """Return when this connection will be closed, by the loop's clock, where it waits for a request, or for its
        client to take an answer of the application; else None."""
        waiter = self._waiter
        if self._untaken_since_s is not None:
            return self._untaken_since_s + self._rules.write_timeout_s
        return None if waiter is None or waiter.done() or self._messages else self._next_keepalive_close_time

    def _look(self, data: bytes) -> None:
        """Handle what is queued or on its way and is no request, or a chunked one; others wait for their turn."""
        messages = self._messages
        if messages and not isinstance(messages[-1][0], RawRequestMessage):
            self._spoil()
        chunks = self._chunks
        if chunks is not None:
            chunks.feed(data)
        else:
            for message, payload in messages:
                if getattr(message, "chunked", False) and payload is not self._proven:
                    chunks = self._chunks = ChunkedEnd(payload, data)
                    break
        if chunks is None or not chunks.payload.is_eof():
            return
        self._chunks, payload = None, chunks.payload
        beside = [each for _, each in messages if each is not payload]
        if chunks.bare and not beside and not self._message_tail:
            self._proven = payload
        else:
            self._end_with(payload)

    def _end_with(self, payload: StreamReader) -> None:
        """Make the request with this body the connection's last: a trailer may stand where the next one begins."""
        self._deaf, self._message_tail = True, b""
        messages = self._messages
        for at, (message, each) in enumerate(messages):
            if each is payload:
                while len(messages) > at + 1:
                    messages.pop()
                messages[at] = cast(RawRequestMessage, message)._replace(should_close=True), payload
                return
        messages.clear()  # it is being served
        self._close_after_this()

    def _end_with_last(self) -> None:
        """End the connection with the last request that has come."""
        if not self._messages:
            self._close_after_this()
            return
        message, payload = self._messages.pop()
        self._messages.append((cast(RawRequestMessage, message)._replace(should_close=True), payload))

    def _close_after_this(self) -> None:
        """End the connection with the request that is being served."""
        self._close = True
        request = self._request
        if request is not None:
            request._message = request._message._replace(should_close=True)

    def _await_head(self, data: bytes) -> None:
        """Bound the bytes and the time of a head that is on its way."""
        first = self._head_bytes == 0
        self._head_end = (self._head_end + data)[-LOOKED_BACK_BYTES:]
        self._count_head(len(data))
        if first and not self._force_close:
            within_s = min(self._rules.head_timeout_s, self._keepalive_timeout)
            self._next_keepalive_close_time = self._loop.time() + within_s
            if self._keepalive_handle is not None:
                self._keepalive_handle.cancel()
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def _count_head(self, size_bytes: int) -> None:
        """Count bytes of a head that is not whole."""
        self._head_bytes += size_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head(self._refuse(LineTooLong(b"", MAX_HEAD_BYTES)))
        else:
            self._heads.add(self, size_bytes)

    def end_head(self) -> None:
        """Refuse the unfinished head of the connection that has the most of too many bytes."""
        logger.info("refused a head that is not whole: all of them together are too large")
        self._refuse_head(refusals.heads_too_large())

    def _refuse_head(self, refusal: refusals.Refusal) -> None:
        """Answer a head that is not whole, and end the connection, where a request is served, with that one."""
        self._forget_head()
        if self._exchange is not None or self._request is not None:
            self._deaf = True
            self._close_after_this()
            return
        refusal.answer(Exchange(self, ERROR, EMPTY_PAYLOAD, None), self._new_id())
        self.force_close()
        self._parser = None  # has the head: many connections may end before the loop tells the first that it is lost

    def _forget_head(self) -> None:
        """Count no bytes for a head that is whole, or that nobody waits for any longer."""
        if self._head_bytes:
            self._head_bytes, self._head_end = 0, b""
            self._heads.drop(self)

    def _spoil(self) -> None:
        """Tell the readers of bodies that are not whole that the parser has given up: it does not itself."""
        bodies = [body for _, body in self._messages]
        if self._exchange is not None:
            bodies.append(self._exchange.payload)
        elif self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof() and body.exception() is None:
                body.set_exception(web.RequestPayloadError("its framing broke"))

    @property
    def _account(self) -> str:
        """Return the account of the body that is on its way, empty where that is not known."""
        return self._exchange.account if self._exchange is not None else ""

    async def _drain_helper(self) -> None:
        """Wait until the client has taken what was written. A client that takes nothing of an application's answer is
        cut off, as by exchanges: a connection that waits for its client is none that could be closed for another."""
        if self._exchange is not None or not self._paused or self.transport is None:
            return await super()._drain_helper()
        transport = self.transport
        self._untaken_since_s = self._loop.time()
        try:
            with cut_where_stalled(transport, self._loop, self._rules.write_timeout_s, transport.abort):
                return await super()._drain_helper()
        finally:
            self._untaken_since_s = None

    async def _discard(self, payload: StreamReader) -> None:
        """Read the rest of a body that was answered before its end, undecoded, so that the client sees the answer and
        not a reset; the connection ends where that takes too long."""
        self._unwanted = payload
        with suppress(TimeoutError, web.RequestPayloadError, ConnectionError):
            async with asyncio.timeout(self._rules.linger_s):
                left = self._rules.linger_bytes
                while left > 0 and (part := await payload.readany()):
                    left -= len(part)
                    await asyncio.sleep(0)  # where there is more already, the parser goes on without a break
        self._unwanted = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop reading an unwanted body: its client has left and need not see why."""
        super().connection_lost(exc)
        self._chunks = self._proven = self._request = None
        self._forget_head()
        if self._unwanted is not None and not self._unwanted.is_eof():
            self._unwanted.set_exception(ConnectionResetError("the client has left"))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the application's answer as aiohttp does, then read a bounded rest of the body; `_look` at what aiohttp
        parses by itself where a request for an upgrade was declined."""
        if request._message.chunked and not request.content.is_eof():
            request._message = request._message._replace(should_close=True)  # where its body ends is not known in time
        response, gone = await super().finish_response(request, resp, start_time)
        if self._messages:
            self._look(b"")
        if not gone and not request.content.is_eof() and self.transport is not None:
            await self._discard(request.content)
        self._request = None
        return response, gone

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, or whose handling failed, in the envelope. Of a request that can't be parsed not a
        byte is logged: keys stand in it."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer is out")
        refusal = self._refuse(exc)
        exchange = Exchange(self, request._message, EMPTY_PAYLOAD, None, self._rules.cors)
        exchange.keep_alive = False
        refusal.answer(exchange, self._new_id())
        return Written(exchange)

    def _refuse(self, error: BaseException | None) -> refusals.Refusal:
        if isinstance(error, HttpProcessingError | web.RequestPayloadError):
            logger.info("refused what is no request: %s", type(error).__name__)
            return refusals.bad_head(too_large=isinstance(error, LineTooLong))
        logger.error("a request failed", exc_info=error)
        return refusals.unavailable()
