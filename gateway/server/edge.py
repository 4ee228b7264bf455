"""The server's edge: metered requests go straight from aiohttp's parser to the proxy, all others to the application.

aiohttp frames requests, keeps connections alive, bounds what is queued and says what is no HTTP. Of its way from a
parsed request to a written answer, metered requests skip the task, the routing, the middlewares and the response, which
cost more than admission and settlement together. This file owns that a connection serves one request at a time, its
requests in order, whichever way each of them takes; `gateway.server.guard` what may be sent on it at all.

It is built on private parts of aiohttp's `RequestHandler`, all of them named here, in `gateway.server.guard` and in
`gateway.server.exchange`: `_waiter`, on which its loop sleeps while a connection is idle, and which is taken away while
a metered request is served, so that nothing wakes the loop and the idle timer does not fire; `_messages`, the queue of
parsed requests; `_parser`; of its base `_paused`, `_reading_paused`, `_buffer_paused`, `_pause_transport_reading`,
`_resume_transport_reading` and `_drain_helper`. The tests of this file hold them to what they must do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.hdrs import EXPECT
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy

from billing.api.requests import AWAITS_CONTINUE
from gateway.server import refusals
from gateway.server.exchange import CONTINUES, Exchange
from gateway.server.guard import EdgeRules, GuardedProtocol, Written
from gateway.server.half_closed import HalfClosed, may_be_half_closed
from gateway.server.heads import Heads
from gateway.server.ids import Ulids
from gateway.server.pace import Pace

logger = logging.getLogger(__name__)

SHED_SHARE: Final = 64
"""Of all connections, the part that is closed at once where there are too many: to find them costs a look at each."""

Serve = Callable[[Exchange], Awaitable[None]]


class EdgeProtocol(GuardedProtocol):
    """One connection of a client. Its metered requests are served by one task, made with the first of them, but for
    those that the application serves."""

    __slots__ = ("_endpoints", "_serve", "_served_by", "_serving", "_sleeping", "_turn")

    def __init__(self, server: "EdgeServer", **options: Any) -> None:
        super().__init__(server, server.rules, server.pace, server.heads, server.new_id, **options)
        self._serve = server.serve
        self._endpoints = server.endpoints
        self._served_by: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._turn: asyncio.Future[None] | None = None
        self._sleeping: asyncio.Future[None] | None = None

    @property
    def closing(self) -> bool:
        """Whether the connection ends with the answer that is being made."""
        return self._close or self._force_close

    def _take(self, data: bytes) -> None:
        if self._deaf:
            self._spend(data, self._account, chunked=False)
            return
        waiter = self._waiter
        if waiter is None:  # a request is being served: what comes is its body, or waits
            closing, self._close = self._close, self._close and self._exchange is None
            behind = self._body_is_whole and not self._upgraded
            super()._take(data)  # takes nothing while closing, and a body may still be on its way
            self._close = self._close or closing
            if data:
                self._spend(data, self._account, chunked=self._chunks is not None)
                if self._messages:
                    self._forget_head()
                elif behind:
                    self._count_head(len(data))
            if self._messages or self._chunks is not None:
                self._look(data)
            return
        self._waiter = None
        super()._take(data)  # parses and queues; there is nobody to wake
        self._waiter = waiter
        if self._messages:
            if len(self._messages) > 1 or getattr(self._messages[0][0], "chunked", True):
                self._spend(data, self._account, chunked=True)
                self._look(self._head_end + data)
            self._forget_head()
            self._next()
        elif data:
            self._await_head(data)

    @property
    def _body_is_whole(self) -> bool:
        """Whether the body of the request that is being served has come, so that what comes now stands behind it."""
        if self._exchange is not None:
            return self._exchange.payload.is_eof()
        return self._request is not None and self._request.content.is_eof()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp's bodies ask for this with every read; where nothing was paused there is nothing to be done."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def _next(self) -> None:
        """The connection is idle and a request is there: serve it here, or wake aiohttp's loop."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        message, payload = self._messages[0]
        parser, endpoint = self._parser, self._metered(message)
        if endpoint is None or parser is None:
            waiter.set_result(None)
            return
        self._messages.popleft()
        parser.message_consumed()
        self._sleeping, self._waiter = waiter, None
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        self._request_in_progress = True
        self._exchange = Exchange(self, cast(RawRequestMessage, message), payload, endpoint, self._rules.cors)
        if self._serving is None:
            self._serving = self._loop.create_task(self._serve_calls())
        elif self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def _serve_calls(self) -> None:
        """Serve this connection's requests, one after the other: a task for each would cost more than waiting."""
        while True:
            if self._exchange is not None:  # also where the server has begun to stop: it was taken
                await self._run(self._exchange)
            elif self.closing or self.transport is None:
                return
            else:
                self._turn = self._loop.create_future()
                try:
                    await self._turn
                finally:
                    self._turn = None

    def begins(self, exchange: Exchange, served_by: "asyncio.Task[Any] | None") -> None:
        """A request is being served by the application, in a task that is cancelled when the client leaves."""
        self._exchange, self._served_by = exchange, served_by

    def ends(self) -> None:
        """The request is over."""
        self._exchange = self._served_by = None

    def _metered(self, message: Any) -> str | None:
        if not isinstance(message, RawRequestMessage) or message.method != "POST" or message.upgrade:
            return None
        path = message.path.partition("?")[0]
        return path if path in self._endpoints else None

    async def _run(self, exchange: Exchange) -> None:
        payload = exchange.payload
        try:
            await self._serve(exchange)
            if self._paused:
                await exchange.flushed()
            if not exchange.whole:
                exchange.abort()
            if not payload.at_eof() and payload.exception() is None:
                if payload.is_eof():
                    payload.read_nowait()  # what nobody read would hold the next request back
                elif self.transport is not None:
                    await self._discard(payload)
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
        """The request is over: on to the next one, or the connection's end."""
        self.ends()
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        waiter, self._sleeping = self._sleeping, None
        if self.transport is None or self.closing or not exchange.keep_alive:
            if waiter is not None:
                waiter.cancel()
            self.force_close()
            return
        self._waiter = waiter
        self._keepalive = True
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if self._messages:
            self._next()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own meaning of it
        """The client sends no more. Where it may wait for answers all the same, they are served, and the connection
        ends with the last of them; True for that."""
        if self.transport is None or not may_be_half_closed(self.transport) or not self._may_wait():
            return False
        self._end_with_last()
        HalfClosed(self, self._loop)
        return True

    def _may_wait(self) -> bool:
        """Whether all that the client has sent are whole requests, of which none is being answered yet."""
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
        """The request that is being served, where nothing of its answer is out and an interim one may come before."""
        exchange, request = self._exchange, self._request
        if exchange is not None:
            return exchange if (not exchange.begun or exchange.unsent) and exchange.version >= HttpVersion11 else None
        if request is None or request.writer.output_size > 0 or request.version < HttpVersion11:
            return None
        return request

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has left: its request is cancelled; what is on its way is settled or given back."""
        super().connection_lost(exc)
        if self._sleeping is not None:
            self._sleeping.cancel()  # aiohttp's loop: a request that was not begun yet can't end it
        for task in (self._served_by, self._serving):
            if task is not None:
                task.cancel()

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


class EdgeServer(web.Server):
    """An application's server whose metered endpoints are served by `serve`."""

    def __init__(
        self, behind: web.Server, serve: Serve, endpoints: frozenset[str], rules: EdgeRules | None = None
    ) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            expects = request._headers.get(EXPECT)  # `headers` keeps what it has given once
            if expects:
                if expects.lower() != CONTINUES:
                    return refusals.bad_request("This Expect is not known here: leave it out.").response(self.new_id())
                _leave_out_expect(request)
            return await behind.request_handler(request)

        self._behind = behind
        super().__init__(
            handle,
            request_factory=self._make_request,
            handler_cancellation=behind.handler_cancellation,
            loop=behind._loop,
            **behind._kwargs,
        )
        self.serve = serve
        self.endpoints = endpoints
        self.rules = rules or EdgeRules()
        self.pace = Pace(self.rules.body_bytes_per_s, self._loop)
        self.heads = Heads(self.rules.head_bytes)
        self.new_id = Ulids()

    def _make_request(self, message: Any, payload: StreamReader, protocol: Any, writer: Any, task: Any) -> Any:
        protocol._request = made = self._behind.request_factory(message, payload, protocol, writer, task)
        return made

    def __call__(self) -> RequestHandler:
        return EdgeProtocol(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Where there are too many, those end that have waited longest for their clients; if none waits, this."""
        super().connection_made(handler, transport)
        if len(self._connections) <= self.rules.max_connections:
            return
        idle = [(until_s, each) for each in self._connections if (until_s := cast(EdgeProtocol, each).idle_until_s)]
        idle.sort(key=lambda pair: pair[0])
        for _, each in idle[: 1 + len(self._connections) // SHED_SHARE]:
            if each._paused and each.transport is not None:
                each.transport.abort()  # closing would wait for its client, too
            each.force_close()
        if not idle:
            self._loop.call_soon(transport.abort)  # once its loop has begun


def _leave_out_expect(request: web.BaseRequest) -> None:
    """Keep aiohttp from telling the client to send its body before anybody has looked at its key."""
    headers = CIMultiDict(request._headers)
    headers.popall(EXPECT)
    request._headers = CIMultiDictProxy(headers)
    request[AWAITS_CONTINUE] = request.version >= HttpVersion11


class EdgeRunner(web.AppRunner):
    """Runs an application behind the edge; options are those of `web.AppRunner`."""

    def __init__(
        self,
        app: web.Application,
        serve: Serve,
        endpoints: frozenset[str],
        rules: EdgeRules | None = None,
        **options: Any,
    ) -> None:
        super().__init__(app, **options)
        self._serve = serve
        self._endpoints = endpoints
        self._rules = rules

    async def _make_server(self) -> web.Server:
        return EdgeServer(await super()._make_server(), self._serve, self._endpoints, self._rules)


def route_of(serve: Serve) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A metered endpoint as a handler of the application: for requests that aiohttp's loop takes itself, because they
    stood in its queue when it looked."""

    async def handle(request: web.Request) -> web.StreamResponse:
        protocol = cast(EdgeProtocol, request.protocol)
        exchange = Exchange(protocol, request._message, request.content, request.path, protocol._rules.cors)
        protocol.begins(exchange, asyncio.current_task())
        try:
            await serve(exchange)
            await exchange.flushed()
        except BaseException:
            if not exchange.whole:
                exchange.abort()
            raise
        finally:
            protocol.ends()
        return Written(exchange)

    return handle
