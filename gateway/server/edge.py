"""The server's edge: metered requests go straight from aiohttp's parser to the proxy, all others to the application.

`gateway.server.connection` has one connection, `gateway.server.clients` counts them; this file owns the server in front
of the application.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.hdrs import EXPECT
from multidict import CIMultiDict, CIMultiDictProxy

from billing.api.requests import AWAITS_CONTINUE
from gateway.server import refusals
from gateway.server.accepting import Acceptor, EdgeSite
from gateway.server.clients import Clients
from gateway.server.connection import EdgeProtocol, Find, Hand, Handlers
from gateway.server.exchange import CONTINUES, Exchange, Written
from gateway.server.front import Front, FrontProtocol
from gateway.server.guard import EdgeRules, Shared
from gateway.server.heads import Heads
from gateway.server.ids import Ulids
from gateway.server.known_heads import KnownHeads
from gateway.server.paced import Pace
from gateway.server.plain import serve_plainly
from gateway.server.ports import Metered

# aiohttp's own.
KEEPALIVE_S: Final = 3630.0


class EdgeServer(web.Server):
    """An application's server whose metered endpoints are served by `metered`."""

    def __init__(
        self,
        behind: web.Server,
        metered: Metered,
        find: Find,
        rules: EdgeRules | None = None,
        hand: Hand | None = None,
        clients: Clients | None = None,
        *,
        front: bool = True,
    ) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if cast("EdgeProtocol", request.protocol).refused:
                return refusals.too_many_connections().response(self.new_id())
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
        self.rules = rules or EdgeRules()
        self.clients = Clients(self.rules.connections, self._loop) if clients is None else clients
        self.shared = Shared(
            Pace(self.rules.body_bytes_per_s, self._loop), Heads(self.rules.head_bytes_in_flight), self.clients
        )
        self.new_id = Ulids()
        keepalive_s: float = self._kwargs.get("keepalive_timeout", KEEPALIVE_S)
        self.front = Front(
            server=self,
            behind=self.behind,
            begin=metered.begin,
            heads=KnownHeads(find),
            rules=self.rules,
            shared=self.shared,
            new_id=self.new_id,
            keepalive_s=keepalive_s,
            loop=self._loop,
        )
        self._has_front = front
        self._handlers = Handlers(metered, find, hand, self.front.takes_back if front else None)

    def _noted_request(self, message: Any, payload: StreamReader, protocol: Any, writer: Any, task: Any) -> Any:
        protocol.begin(payload, message.headers)
        protocol._request = made = self._behind.request_factory(message, payload, protocol, writer, task)
        return made

    def __call__(self) -> EdgeProtocol | FrontProtocol:  # type: ignore[override]
        return FrontProtocol(self.front) if self._has_front else self.behind()

    def behind(self) -> EdgeProtocol:
        """Return a connection of aiohttp's."""
        return EdgeProtocol(self, self._handlers, self.rules, self.shared, self.new_id, loop=self._loop, **self._kwargs)

    def adopt(self, transport: asyncio.Transport, data: bytes) -> None:
        """Serve the request of a connection that another process has accepted, and has read `data` of."""
        peer = transport.get_extra_info("peername")
        address, _ = self.clients.place(str(peer[0]) if isinstance(peer, tuple) else "")
        if not self.clients.admits(address):
            transport.write(refusals.too_many_connections().raw(self.new_id()))
            transport.close()
            return
        self.behind().adopt(transport, data)


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
        metered: Metered,
        find: Find,
        rules: EdgeRules | None = None,
        hand: Hand | None = None,
        clients: Clients | None = None,
        *,
        front: bool = True,
        **options: Any,
    ) -> None:
        """Without `front` all connections are aiohttp's."""
        super().__init__(app, **options)
        self._front = front
        self._clients = clients
        self._metered = metered
        self._find = find
        self._rules = rules
        self._hand = hand

    async def _make_server(self) -> web.Server:
        behind = await super()._make_server()
        return EdgeServer(behind, self._metered, self._find, self._rules, self._hand, self._clients, front=self._front)

    def site(self, listener: socket.socket) -> web.BaseSite:
        """Return what accepts connections of a listening socket; after `setup`."""
        server = self.server
        assert isinstance(server, EdgeServer)  # noqa: S101  (made by _make_server)
        return EdgeSite(self, listener, Acceptor(listener, server, server.clients, server.rules.max_connections))


def route_of(
    serve: Callable[[Exchange], Awaitable[None]],
    find: Find,
    otherwise: Callable[[web.Request], Awaitable[web.StreamResponse]],
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
        rules = protocol._rules
        exchange = Exchange(
            protocol, request._message, request.content, match, rules.cors, rules.client_write_timeout_s
        )
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
