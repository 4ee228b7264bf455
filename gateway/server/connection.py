"""One connection of a client: requests are served in order, one at a time, metered ones straight from the parser.

aiohttp frames requests, keeps connections alive, bounds what is queued and says what is no HTTP. Of its way from a
parsed request to a written answer, metered requests skip the task, the routing, the middlewares and the response, which
cost more than admission and settlement together. `gateway.server.guard` has what may be sent on a connection at all,
`gateway.server.aiohttp_private` the private parts of aiohttp that this is built on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion11, web

from billing.logs import log_about
from gateway.server import refusals
from gateway.server.aiohttp_private import RawRequestMessage
from gateway.server.exchange import Exchange
from gateway.server.guard import EdgeRules, GuardedProtocol, Shared
from gateway.server.stalls import HalfClosed, may_be_half_closed

if TYPE_CHECKING:
    from gateway.dialects.base import Match
    from gateway.server.ports import Metered

HEAD_END_BYTES: Final = 4

logger = logging.getLogger(__name__)

# Which endpoint a request is sent to, by its method, path and headers: `gateway.dialects.registry.Dialects.find`.
Find = Callable[[str, str, Mapping[str, str]], "Match | None"]
# Gives a connection to another process, by its request's method and path, with all that was read of it; False where it
# is to be served here: `gateway.process.pages.Hand`.
Hand = Callable[[str, str, asyncio.Transport, bytes], bool]


# Has the front go on with an idle connection that has received this; False where it is not for the front.
Back = Callable[["EdgeProtocol", bytes], bool]


@dataclass(frozen=True, slots=True)
class Handlers:
    """Who serves the requests of connections; without `hand` no other process does, without `back` no front."""

    metered: Metered
    find: Find
    hand: Hand | None = None
    back: Back | None = None


class EdgeProtocol(GuardedProtocol):
    """One connection of a client. Its metered requests are served by one task, made with the first of them, but for
    those that the application serves."""

    __slots__ = ("_back", "_find", "_hand", "_serve", "_served_by", "_serving", "_sleeping", "_turn")

    def __init__(
        self,
        manager: web.Server,
        handlers: Handlers,
        rules: EdgeRules,
        shared: Shared,
        new_id: Callable[[], str],
        **options: Any,
    ) -> None:
        super().__init__(manager, rules, shared, new_id, **options)
        self._serve = handlers.metered.handle
        self._find = handlers.find
        self._hand = handlers.hand
        self._back = handlers.back
        self._served_by: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._turn: asyncio.Future[None] | None = None
        self._sleeping: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what comes until aiohttp's loop has begun, in the next turn: it would serve the first request itself."""
        super().connection_made(transport)
        self._early = b""
        self._loop.call_soon(self._end_early)

    def _end_early(self) -> None:
        early, self._early = self._early, None
        if early:
            back, self._back = self._back, None  # what the front has given away it is not asked for again
            self.data_received(early)
            self._back = back

    def close(self) -> None:
        """End the connection with what has come, also where aiohttp's loop has not begun: the front has read it."""
        self._end_early()
        super().close()

    def _take(self, data: bytes) -> None:
        if self._deaf:
            self._spend(data, self._payer, chunked=False)
            return
        waiter = self._waiter
        if waiter is None:  # a request is served: what comes is its body, or waits; or aiohttp's loop has not begun
            head_end = self._head_end
            closing, self._close = self._close, self._close and self._exchange is None
            body = self._body
            behind = body is not None and body.is_eof() and not self._upgraded
            before_bytes = body.total_bytes if body is not None else 0
            if body is not None:
                self._last_s = self._loop.time()
            self._parse(data)  # takes nothing while closing, and a body may still be on its way
            self._close = self._close or closing
            if data:
                self._spend(data, self._payer, chunked=self._chunks is not None)
                if self._messages:
                    self._forget_head()
                    self._note_behind(data)
                elif behind:
                    self._count_head(len(data))
                elif body is not None and body.is_eof() and self._chunks is None and not self._upgraded:
                    self._count_head(len(data) - (body.total_bytes - before_bytes))
                elif not self._request_count:
                    self._await_head(data)
            if self._messages or self._chunks is not None:
                self._look(head_end + data)
                if self._request_count == 1 and self._messages:  # aiohttp's loop has not begun
                    self._hands_over(self._messages[0][0], data)
            return
        if self._back is not None and self._rests and self._back(self, data):
            return
        self._waiter = None
        self._parse(data)  # queues; there is nobody to wake
        self._waiter = waiter
        if self._messages:
            message, body = self._messages[0]
            is_plain = len(self._messages) == 1 and not getattr(message, "chunked", True)
            if not is_plain:
                self._spend(data, self._payer, chunked=True)
                self._look(self._head_end + data)
            if self._head_bytes or self._head_behind:
                self._forget_head()
            if not is_plain:
                self._note_behind(data)
            elif body.is_eof() and data.find(b"\r\n\r\n") + HEAD_END_BYTES + body.total_bytes != len(data):
                self._head_behind = True
            self._next(data)
        elif data:
            self._await_head(data)

    @property
    def _rests(self) -> bool:
        """Return whether nothing has come since the last answer, and this connection is to be kept."""
        begun = self._head_bytes or self._head_behind or self._messages or self._message_tail or self._held
        ends = self._close or self._force_close or self._deaf or self._upgraded
        return not (begun or ends or self._paused or self._held_back or self._request is not None)

    def part(self) -> None:
        """Have nothing more to do with the connection, which another protocol goes on with."""
        self.transport = self._wire = None
        self.connection_lost(None)

    def _note_behind(self, data: bytes) -> None:
        """Note whether `data`, with which a head was completed, may have more behind its request. What can't be told at
        a look counts as more: then the connection does not stay open for as long without a request."""
        if len(self._messages) > 1:
            self._head_behind = True
            return
        message, body = self._messages[0]
        if body.is_eof() and not getattr(message, "chunked", True):  # `ChunkedEnd` sees what is behind chunks
            end = data.find(b"\r\n\r\n")
            self._head_behind = end < 0 or end + HEAD_END_BYTES + body.total_bytes < len(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume where something was paused: aiohttp's bodies ask for this with every read."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def _next(self, data: bytes = b"") -> None:
        """Serve the first request of an idle connection here, or wake aiohttp's loop for it, or have another process
        serve it; `data` is what came last."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        message, payload = self._messages[0]
        parser, match = self._parser, self._metered(message)
        if match is None or parser is None:
            if not self._hands_over(message, data):
                waiter.set_result(None)
            return
        self._messages.popleft()
        parser.message_consumed()
        self._sleeping, self._waiter = waiter, None
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        self._request_in_progress = True
        if not payload.is_eof() or self._trusted:
            self.begin(payload, message.headers)  # type: ignore[union-attr]  # `_metered` has seen to it
        rules = self._rules
        self._exchange = Exchange(
            self,
            message,  # type: ignore[arg-type]
            payload,
            match,
            rules.cors,
            rules.client_write_timeout_s,
        )
        if self._serving is None:
            self._serving = self._loop.create_task(self._serve_calls())
        elif self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def _hands_over(self, message: Any, data: bytes) -> bool:
        """Give this connection to another process, if that serves such requests, and drop it. Only one with nothing on
        it but this request, of which `data` is all that has come."""
        transport = self.transport
        if self._hand is None or transport is None or not isinstance(message, RawRequestMessage) or message.upgrade:
            return False
        line = f"{message.method} {message.path} ".encode("utf-8", "surrogateescape")
        if len(self._messages) > 1 or not data.startswith(line) or self._held or self._deaf or self._close:
            return False
        if data.partition(b"\r\n\r\n")[0].count(b"\r\n") != len(message.raw_headers):
            return False  # a part of the head came before, and what looks like its first line is a header's value
        if transport.get_write_buffer_size() or not self._hand(message.method, message.path, transport, data):
            return False
        transport.abort()  # closes without a word to the client, whom another process has now
        self._messages.clear()
        self.force_close()
        return True

    def adopt(self, transport: asyncio.Transport, data: bytes) -> None:
        """Serve the request of a connection that another process has given away, and end it with that."""
        transport.set_protocol(self)
        self.connection_made(transport)
        self._early = None
        self.data_received(data)
        self._end_with_last()

    async def _serve_calls(self) -> None:
        """Serve this connection's requests, one after the other: a task for each would cost more than waiting."""
        log_about(None)
        while True:
            if self._exchange is not None:  # also where the server has begun to stop: it was taken
                await self._run(self._exchange)
            elif self._close or self._force_close or self.transport is None:
                return
            else:
                self._turn = self._loop.create_future()
                try:
                    await self._turn
                finally:
                    self._turn = None

    def begins(self, exchange: Exchange, served_by: asyncio.Task[Any] | None) -> None:
        """Note that the application serves a request, in a task that is cancelled when the client leaves."""
        self._exchange, self._served_by = exchange, served_by

    def ends(self) -> None:
        """Note that this request is over."""
        self._exchange = self._served_by = None

    def _metered(self, message: Any) -> Match | None:
        if not isinstance(message, RawRequestMessage) or message.upgrade:
            return None
        return self._find(message.method, message.path, message.headers)

    async def _run(self, exchange: Exchange) -> None:
        payload = exchange.payload
        try:
            if self.refused:
                refusals.too_many_connections().answer(exchange, self._new_id())
            else:
                await self._serve(exchange)
            if self._paused:
                await exchange.flushed()
            if not exchange.whole:
                exchange.abort()
            if not payload.at_eof() and payload.exception() is None:
                if payload.is_eof():
                    payload.read_nowait()  # what nobody read would hold the next request back
                elif self.transport is not None:
                    await self._discard(payload, exchange.declared_bytes if exchange.account else 0)
                    exchange.keep_alive = exchange.keep_alive and payload.is_eof()
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                logger.exception("a call failed")
            if not exchange.whole:
                exchange.abort()
            exchange.keep_alive = False
            if not isinstance(error, Exception):
                raise
        finally:
            self._done(exchange)

    def _done(self, exchange: Exchange) -> None:
        """Go on to the next request, or end the connection."""
        self._exchange = self._served_by = None
        self._request_in_progress = False
        if self._head_behind or self._head_bytes or self._body_timer is not None or self._trusted:
            self._rest()
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        waiter, self._sleeping = self._sleeping, None
        if self.transport is None or self._close or self._force_close or not exchange.keep_alive:
            if waiter is not None:
                waiter.cancel()
            self.force_close()
            return
        self._waiter = waiter
        self._keepalive = True
        self._since_s = now_s = self._loop.time()
        self._next_keepalive_close_time = now_s + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if self._messages:
            self._next()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own meaning of it
        """Take note that the client sends no more. Where it may wait for answers all the same, they are served, and the
        connection ends with the last of them; True for that."""
        self._end_early()
        if self.transport is None or not may_be_half_closed(self.transport) or not self._may_wait():
            return False
        self._end_with_last()
        HalfClosed(self, self._loop)
        return True

    def _may_wait(self) -> bool:
        """Return whether all that the client has sent are whole requests, of which none is being answered yet."""
        for message, payload in self._messages:
            if not isinstance(message, RawRequestMessage) or not payload.is_eof() or message.version < HttpVersion11:
                return False
        if self._exchange is not None:
            return self.unanswered is not None and self._exchange.payload.is_eof()
        if self._request is not None:
            return self.unanswered is not None and self._request.content.is_eof()
        return bool(self._messages)

    @property
    def unanswered(self) -> Exchange | web.BaseRequest | None:
        """Return the request that is being served, where nothing of its answer is out and an interim one may come
        before."""
        exchange, request = self._exchange, self._request
        if exchange is not None:
            return exchange if (not exchange.begun or exchange.unsent) and exchange.version >= HttpVersion11 else None
        if request is None or request.writer.output_size > 0 or request.version < HttpVersion11:
            return None
        return request

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the request of a client that has left; what is on its way is settled or given back."""
        self._early = None
        super().connection_lost(exc)
        if self._sleeping is not None:
            self._sleeping.cancel()  # aiohttp's loop: a request that was not begun yet can't end it
        for task in (self._served_by, self._serving):
            if task is not None:
                task.cancel()
        self._served_by = self._serving = None  # a cancelled task has this connection in its traceback

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Let the request end within `timeout` seconds, then cancel it, and close."""
        exchange, task = self._exchange, self._served_by or self._serving
        if exchange is not None and task is not None:
            self._close = True
            await asyncio.wait((task,), timeout=timeout)
        for each in (self._served_by, self._serving):
            if each is not None:
                each.cancel()
        await super().shutdown(timeout)
