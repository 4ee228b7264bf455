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

import msgspec
from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from multidict import MultiMapping

from billing.addresses import FORWARDED_HEADER, Addresses
from gateway.config.defaults import EdgeSettings
from gateway.server import refusals
from gateway.server.aiohttp_private import ERROR, HttpProcessingError, LineTooLong, RawRequestMessage
from gateway.server.clients import ConnectionRules
from gateway.server.exchange import BodyTooSlow, Exchange, FramingTooLarge, Written
from gateway.server.heads import LOOKED_BACK_BYTES, ChunkedEnd
from gateway.server.paced import PacedProtocol
from gateway.server.stalls import cut_where_stalled

if TYPE_CHECKING:
    from gateway.server.clients import Awaited, Clients
    from gateway.server.cors import Cors
    from gateway.server.heads import Heads
    from gateway.server.paced import Pace

logger = logging.getLogger(__name__)

# Of a head that does not come in one piece; a single line is bounded by aiohttp, at 8 KiB.
MAX_HEAD_BYTES: Final = 65_536


class EdgeRules(EdgeSettings, frozen=True, kw_only=True):
    """What the edge follows of the configuration."""

    addresses: Addresses = msgspec.field(default_factory=Addresses)
    """Finds the address that a connection of a trusted proxy counts for."""
    max_body_bytes: int = 1 << 30
    """Of a request to a metered endpoint, chunks with their framing beside what every chunk needs."""
    max_api_body_bytes: int = 1 << 30
    """And of any other."""
    cors: Cors | None = None
    """The answers to browsers; None where there are none."""

    @property
    def connections(self) -> ConnectionRules:
        """Return how many connections there may be."""
        return ConnectionRules(
            self.max_connections, self.connections_per_address, self.connections_per_account, self.addresses
        )


@dataclass(frozen=True, slots=True)
class Shared:
    """What the connections of one process have together."""

    pace: Pace
    heads: Heads
    clients: Clients


# Of a body that nobody has taken yet twice as much is kept, and a sixteenth of this in chunks: what aiohttp parses
# without a break.
BUFFER_BYTES: Final = 131_072
# What aiohttp would do by itself and this file sees to: it decompresses nothing, lingers not, logs no request.
OPTIONS: Final[dict[str, Any]] = {
    "auto_decompress": False,
    "read_bufsize": BUFFER_BYTES,
    "lingering_time": 0.0,
    "access_log": None,
    "logger": logger,
}


class GuardedProtocol(PacedProtocol):
    """aiohttp's connection within those bounds. Who extends it calls `_await_head` for bytes of a head that is not
    whole yet, `_look` where something is queued or `_chunks` is not None, `begin` where a request begins and `_rest`
    where it has ended."""

    __slots__ = (
        "__weakref__",
        "_body_timer",
        "_chunks",
        "_clients",
        "_deaf",
        "_exchange",
        "_head_behind",
        "_head_bytes",
        "_head_end",
        "_head_timer",
        "_heads",
        "_last_s",
        "_new_id",
        "_paused_since_s",
        "_peer",
        "_proven",
        "_request",
        "_rules",
        "_since_s",
        "_trusted",
        "_unread_bytes",
        "_unwanted",
        "_wire",
        "account",
        "address",
        "refused",
    )

    def __init__(
        self, manager: web.Server, rules: EdgeRules, shared: Shared, new_id: Callable[[], str], **options: Any
    ) -> None:
        super().__init__(manager, shared.pace, **{**options, **OPTIONS})
        self._rules = rules
        self._heads = shared.heads
        self._clients = shared.clients
        self._new_id = new_id
        self._wire: asyncio.Transport | None = None
        """The transport until it is lost, also while it closes."""
        self.address = self.account = self._peer = ""
        self._trusted = False
        """Whether this is a connection of a trusted proxy."""
        self.refused = False
        """Whether the request that is being served is one too many of its address."""
        self._since_s = self._last_s = 0.0
        """When a request, a head or a body began to be awaited, by the loop's clock; and when bytes of a body came."""
        self._paused_since_s = 0.0
        """When the client has left more of an answer than is kept for it, while that is so."""
        self._unread_bytes = 0
        """How much that was then."""
        self._body_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_behind = False
        """Whether bytes have come behind a request that may be the beginning of the next one's head."""
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection for its address."""
        self._wire = cast(asyncio.Transport, transport)
        self._since_s = self._loop.time()
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self.address, self._trusted = self._clients.place(self._peer)
        super().connection_made(transport)
        self._clients.enter(self)

    @property
    def _leaves(self) -> bool:
        return self._clients.leaving

    @property
    def _payer(self) -> str:
        """Return whose request is being served, empty where that is not known."""
        return self._exchange.account if self._exchange is not None else ""

    @property
    def _body(self) -> StreamReader | None:
        """Return the body of the request that is being served, None where there is no request."""
        if self._exchange is not None:
            return self._exchange.payload
        return self._request.content if self._request is not None else None

    @property
    def waits_since_s(self) -> float | None:
        """Return since when this connection waits for its client, by the loop's clock; None while it does not. A body
        counts by how far it is behind the slowest that may be, and at least since its last bytes: what came before
        these doesn't keep one whose client sends no more. So does an answer, by what its client has taken."""
        if self._paused:
            left_bytes = 0 if self._wire is None else self._wire.get_write_buffer_size()
            taken_bytes = max(0, self._unread_bytes - left_bytes)
            return self._paused_since_s + taken_bytes / self._rules.body_min_bytes_per_s
        body = self._body
        if body is None:
            return None if self._messages else self._since_s
        if body.is_eof() or self._held_back or body.exception() is not None:
            return None
        return min(self._last_s, self._since_s + body.total_bytes / self._rules.body_min_bytes_per_s)

    def end_for_others(self) -> Awaited:
        """End this connection, which waits for its client. Of an answer that is not taken nothing can be told."""
        wire, exchange, request = self._wire, self._exchange, self._request
        awaited: Awaited = "answer"
        if wire is None:
            return awaited
        begun = exchange.begun if exchange is not None else request is not None and request.writer.output_size > 0
        if exchange is not None and begun and not exchange.whole:
            exchange.cut("client_stalled")
        elif self._paused or wire.get_write_buffer_size():
            wire.abort()  # closing would wait for its client, too
        elif self._body is not None:
            awaited = "body"
            if not begun:
                self._tell(refusals.too_many_connections())
        elif self._head_bytes or self._head_behind:
            awaited = "head"
            self._tell(refusals.too_many_connections())
        else:
            awaited = "request"
            if not self._request_count:  # one that has served ends as it would without others, by its idle time
                self._tell(refusals.too_many_connections())
        self.force_close()
        return awaited

    def _tell(self, refusal: refusals.Refusal) -> None:
        """Answer what has come of a request with a refusal that ends the connection."""
        exchange = self._exchange
        if exchange is None:
            message = self._request._message if self._request is not None else ERROR
            exchange = self._without_endpoint(message)
        exchange.keep_alive = False
        refusal.answer(exchange, self._new_id())

    def _without_endpoint(self, message: Any) -> Exchange:
        """Return an exchange of a request that is sent to no endpoint, with no body."""
        return Exchange(self, message, EMPTY_PAYLOAD, None, self._rules.cors, self._rules.client_write_timeout_s)

    def claim(self, account: str) -> bool:
        """Count this connection for an account until another one uses it; False where that has its share."""
        return self._clients.claim(self, account)

    def pause_writing(self) -> None:
        """Note that the client does not take what is written."""
        super().pause_writing()
        self._paused_since_s = self._loop.time()
        self._unread_bytes = 0 if self._wire is None else self._wire.get_write_buffer_size()

    def force_close(self) -> None:
        """Close; where the client takes nothing of what is still to be sent, break off."""
        wire = self._wire
        super().force_close()
        if wire is not None and wire.get_write_buffer_size():
            self._loop.call_later(self._rules.client_write_timeout_s, wire.abort)

    def _end_unread(self, since_s: float) -> None:
        """Break off where the end of an answer was not taken, and nothing was asked since."""
        if self._wire is not None and self._since_s == since_s and self._wire.get_write_buffer_size():
            self._wire.abort()

    def begin(self, body: StreamReader, headers: MultiMapping[str]) -> None:
        """Note that a request begins. It is refused where the address that a proxy forwards it for has its share."""
        self._since_s = self._last_s = self._loop.time()
        if not body.is_eof():
            self._body_timer = self._loop.call_later(self._rules.body_slow_s, self._watch_body, body)
        if self._trusted:
            address = self._clients.forwarded(self._peer, headers.getall(FORWARDED_HEADER, []))
            self.refused = not self._clients.move(self, address)

    def _watch_body(self, body: StreamReader) -> None:
        """End a body that comes too slowly."""
        if body.is_eof() or body.exception() is not None or self.transport is None:
            return
        rate, now_s = self._rules.body_min_bytes_per_s, self._loop.time()
        if self._held_back:  # it is not the client who is slow
            self._since_s = now_s - body.total_bytes / rate
        left_s = self._since_s + body.total_bytes / rate + self._rules.body_slow_s - now_s
        if left_s > 0:
            self._body_timer = self._loop.call_later(left_s, self._watch_body, body)
        else:
            body.set_exception(BodyTooSlow(f"The body comes at less than {rate} bytes a second: send it faster."))

    def _rest(self) -> None:
        """Note that a request is over, but for the time. The rest of a head that has begun behind it must come as every
        head must."""
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        if self._trusted and self.address:
            self._clients.move(self, "")
        if (self._head_bytes or self._head_behind) and not self._messages:
            self._head_timer = self._loop.call_later(self._rules.head_timeout_s, self.force_close)

    def _look(self, data: bytes) -> None:
        """Handle what is queued or on its way and is no request, or a chunked one; others wait for their turn."""
        messages = self._messages
        if messages and not isinstance(messages[-1][0], RawRequestMessage):
            self._spoil()
        chunks = self._chunks
        if chunks is not None:
            chunks.feed(data)
            most_bytes = self._most_bytes + self._rules.linger_bytes  # a reader that refuses a body reads on so far
            if chunks.size_bytes > most_bytes and chunks.payload.exception() is None:
                chunks.payload.set_exception(FramingTooLarge("its chunks are too large"))
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

    @property
    def _most_bytes(self) -> int:
        return self._rules.max_body_bytes if self._exchange is not None else self._rules.max_api_body_bytes

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
        if first:
            self._since_s = self._loop.time()
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
        self._head_behind = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
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

    async def _drain_helper(self) -> None:
        """Wait until the client has taken what was written. A client that takes nothing of an application's answer is
        cut off, as by exchanges: a connection that waits for its client is none that could be closed for another."""
        if self._exchange is not None or not self._paused or self.transport is None:
            return await super()._drain_helper()
        transport = self.transport
        with cut_where_stalled(transport, self._loop, self._rules.client_write_timeout_s, transport.abort):
            return await super()._drain_helper()

    async def _discard(self, payload: StreamReader, announced_bytes: int = 0) -> None:
        """Read the rest of a body that was answered before its end, undecoded, so that the client sees the answer and
        not a reset: many clients send all of it before they read. The connection ends where that takes too long, or is
        more than is read of any body and more than was announced."""
        self._unwanted = payload
        with suppress(TimeoutError, web.RequestPayloadError, ConnectionError):
            async with asyncio.timeout(self._rules.linger_s):
                left = max(self._rules.linger_bytes, announced_bytes)
                while left > 0 and (part := await payload.readany()):
                    left -= len(part)
                    await asyncio.sleep(0)  # where there is more already, the parser goes on without a break
        self._unwanted = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop reading an unwanted body: its client has left and need not see why."""
        self._clients.leave(self)
        super().connection_lost(exc)
        self._chunks = self._proven = self._request = self._wire = None
        self._forget_head()
        if self._body_timer is not None:
            self._body_timer.cancel()
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
        self._since_s = self._loop.time()
        self._rest()
        if self._wire is not None and self._wire.get_write_buffer_size():
            self._loop.call_later(self._rules.client_write_timeout_s, self._end_unread, self._since_s)
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
        exchange = self._without_endpoint(request._message)
        exchange.keep_alive = False
        refusal.answer(exchange, self._new_id())
        return Written(exchange)

    def _refuse(self, error: BaseException | None) -> refusals.Refusal:
        if isinstance(error, HttpProcessingError | web.RequestPayloadError):
            logger.info("refused what is no request: %s", type(error).__name__)
            return refusals.bad_head(too_large=isinstance(error, LineTooLong))
        logger.error("a request failed", exc_info=error)
        return refusals.unavailable()
