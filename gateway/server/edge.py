"""The server's edge: metered requests go straight from aiohttp's parser to the proxy, all others to the application.

`gateway.server.connection` has one connection; this file owns the server in front of the application, and that there
are never too many connections.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.hdrs import EXPECT
from multidict import CIMultiDict, CIMultiDictProxy

from billing.expectations import AWAITS_CONTINUE
from gateway.dialects.base import Match
from gateway.server import refusals
from gateway.server.connection import EdgeProtocol
from gateway.server.exchange import CONTINUES, Exchange
from gateway.server.guard import EdgeRules
from gateway.server.heads import Heads
from gateway.server.ids import Ulids
from gateway.server.paced import Pace
from gateway.server.plain import Written, serve_plainly

SHED_SHARE: Final = 64
"""Of all connections, the part that is closed at once where there are too many: to find them costs a look at each."""

Serve = Callable[[Exchange], Awaitable[None]]
Find = Callable[[str, str, Mapping[str, str]], Match | None]
"""Which endpoint a request is sent to, by its method, path and headers: `gateway.dialects.registry.Dialects.find`."""
Hand = Callable[[str, str, asyncio.Transport, bytes], bool]
"""Gives a connection to another process, by its request's method and path, with all that was read of it; False where it
is to be served here: `gateway.process.pages.Hand`."""


class EdgeServer(web.Server):
    """An application's server whose metered endpoints are served by `serve`."""

    def __init__(
        self, behind: web.Server, serve: Serve, find: Find, rules: EdgeRules | None = None, hand: Hand | None = None
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
            request_factory=self._noted_request,
            handler_cancellation=behind.handler_cancellation,
            loop=behind._loop,
            **behind._kwargs,
        )
        self.serve = serve
        self.find = find
        self.hand = hand
        self.rules = rules or EdgeRules()
        self.pace = Pace(self.rules.body_bytes_per_s, self._loop)
        self.heads = Heads(self.rules.head_bytes)
        self.new_id = Ulids()

    def _noted_request(self, message: Any, payload: StreamReader, protocol: Any, writer: Any, task: Any) -> Any:
        protocol._request = made = self._behind.request_factory(message, payload, protocol, writer, task)
        return made

    def __call__(self) -> web.RequestHandler:
        return EdgeProtocol(self, loop=self._loop, **self._kwargs)

    def adopt(self, transport: asyncio.Transport, data: bytes) -> None:
        """Serve the request of a connection that another process has accepted, and has read `data` of."""
        EdgeProtocol(self, loop=self._loop, **self._kwargs).adopt(transport, data)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """End, where there are too many, those that have waited longest for their clients; if none waits, this."""
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
        find: Find,
        rules: EdgeRules | None = None,
        hand: Hand | None = None,
        **options: Any,
    ) -> None:
        super().__init__(app, **options)
        self._serve = serve
        self._find = find
        self._rules = rules
        self._hand = hand

    async def _make_server(self) -> web.Server:
        return EdgeServer(await super()._make_server(), self._serve, self._find, self._rules, self._hand)


def route_of(
    serve: Serve, find: Find, otherwise: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a metered endpoint as a handler of the application: for requests that aiohttp's loop takes itself, because
    they stood in its queue when it looked, and for all of them where the edge is the plain one. `otherwise` answers
    those that lack the header of their endpoint."""

    async def handle(request: web.Request) -> web.StreamResponse:
        match = find(request.method, request.path, request.headers)
        if match is None:
            return await otherwise(request)
        protocol = request.protocol
        if not isinstance(protocol, EdgeProtocol):
            return await serve_plainly(serve, request, match)
        exchange = Exchange(protocol, request._message, request.content, match, protocol._rules.cors)
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
