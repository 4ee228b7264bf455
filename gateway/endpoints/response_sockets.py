"""`GET /v1/responses` as a WebSocket: each message of a client is admitted, metered and settled as a request.

Messages are served in the order in which they came, one at a time, over one connection to the provider. A few may wait;
more are refused. What has come of messages counts among the bodies in memory (`gateway.server.bodies`): a connection
with which its account would have more than it may is broken off. A connection ends at `max_s`, after the answer that is
under way. Where the client leaves, that answer is read on and charged as every stream is
(`gateway.proxy.detached`). Only an account that can pay for something may open one; where a process has no room
for another, the one that has been idle longest ends, of the account with most.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web

from billing.errors import StoreError
from gateway.auth import attempts_refused, key_of
from gateway.dialects.openai_responses.answer import ENDS
from gateway.server import refusals
from gateway.server.bodies import UNCOUNTED_BYTES, TooManyBytes
from gateway.server.exchange import CLIENT_WRITE_TIMEOUT_S
from gateway.server.frames import FrameExchange
from gateway.server.listening import LEAST_SHARERS, connections_within
from gateway.server.refusals import Refuse
from gateway.upstream.socket import SocketRules, SocketTransport

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from gateway.config.settings import Settings
    from gateway.dialects.base import Match
    from gateway.proxy.handler import Proxy
    from gateway.server.bodies import Kept
    from gateway.server.connection import Find

PING_S: Final = 30.0
UPSTREAM_CONNECT_S: Final = 10.0
MOST_WAITING: Final = 4
# The most that a frame has beside its payload (RFC 6455, 5.2).
FRAME_HEAD_BYTES: Final = 14
_MESSAGES: Final = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})


class ResponseSockets:
    """Clients' connections of one process."""

    def __init__(
        self,
        proxy: Proxy,
        find: Find,
        settings: Settings,
        stored_nano: Callable[[str], Awaitable[int]],
    ) -> None:
        """`stored_nano` reads the ledger's balance of an account."""
        self._stored_nano = stored_nano
        self._proxy = proxy
        self._find = find
        defaults = settings.defaults
        self._settings, self._max_message_bytes = defaults.client_sockets, settings.proxy_max_body_bytes
        room = max(1, connections_within(defaults.edge.max_connections) // LEAST_SHARERS)
        self._most = min(self._settings.response_sockets, room)
        self._upstream = SocketRules(
            UPSTREAM_CONNECT_S, defaults.upstream.upstream_timeout_s, defaults.request.upstream_answer_bytes, ENDS
        )
        self._client_write_timeout_s = defaults.edge.client_write_timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._open: set[_Connection] = set()
        self._of_account: Counter[str] = Counter()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection to its end, or refuse it."""
        match = self._find(request.method, request.path, request.headers)
        upgrades = web.WebSocketResponse().can_prepare(request).ok
        try:
            if match is None or not upgrades:
                allowed, hint = ("GET", "POST"), "; GET opens a WebSocket"
                raise Refuse(refusals.method_not_allowed(request.method, request.path, allowed, hint))
            with attempts_refused():
                return await self._serve(request, match)
        except Refuse as refused:
            return self._proxy.count(refused.refusal).response(self._proxy.new_id())
        except StoreError:
            return self._proxy.count(refusals.unavailable()).response(self._proxy.new_id())

    async def stop(self, _: object = None) -> None:
        """Have every connection end after the answer that is under way."""
        for connection in self._open:
            connection.stop()

    async def close(self) -> None:
        """Close what is left of connections to providers."""
        if self._session is not None:
            await self._session.close()

    async def _serve(self, request: web.Request, match: Match) -> web.StreamResponse:
        """Serve one connection to its end. Raises `Refuse` before it is one."""
        proxy = self._proxy
        secret = key_of(request.headers, request.raw_path, match.dialect)
        principal = proxy.cached(secret) or await proxy.admit(secret, request.remote or "", request.headers)
        account_id = principal.account_id
        await proxy.refuse_hopeless(principal, None, self._stored_nano)
        if self._of_account[account_id] >= self._settings.response_sockets_per_account or not self._has_room(
            account_id
        ):
            raise Refuse(refusals.unavailable("Too many WebSockets are open here: close some, or try again later."))
        if self._session is None:
            self._session = aiohttp.ClientSession(
                trust_env=True,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=0),
                middlewares=(_refuse_redirects,),
            )
        socket = web.WebSocketResponse(
            heartbeat=PING_S, max_msg_size=self._max_message_bytes, compress=False, timeout=self._upstream.connect_s
        )
        transport, incoming = SocketTransport(self._session, self._upstream), _Incoming(proxy.bodies.of(account_id))
        connection = _Connection(proxy, socket, request, match, transport, incoming)
        connection.account_id = account_id
        connection.client_write_timeout_s = self._client_write_timeout_s
        self._open.add(connection)
        self._of_account[account_id] += 1
        try:
            await socket.prepare(request)
            incoming.watch(request.transport)
            await connection.run(self._settings.response_socket_s)
        finally:
            incoming.end()
            self._leave(connection)
        return socket

    def _has_room(self, account_id: str) -> bool:
        """Return whether an account may have another connection. An idle one may end for it: its own, or that of an
        account with more."""
        if len(self._open) < self._most:
            return True
        idle = [
            each
            for each in self._open
            if each.idle_since_s is not None
            and (each.account_id == account_id or self._of_account[each.account_id] > self._of_account[account_id])
        ]
        if not idle:
            return False
        ends = max(idle, key=lambda each: (self._of_account[each.account_id], -(each.idle_since_s or 0.0)))
        self._leave(ends)  # the end itself takes its client's answer
        ends.stop(WSCloseCode.TRY_AGAIN_LATER)
        return True

    def _leave(self, connection: _Connection) -> None:
        if connection in self._open:
            self._open.discard(connection)
            self._of_account[connection.account_id] -= 1
            if not self._of_account[connection.account_id]:
                del self._of_account[connection.account_id]


class _Incoming(asyncio.Protocol):
    """Counts what has come of messages and was not handled yet, before aiohttp reads it."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._arriving = 0
        self._waiting = 0
        self._transport: asyncio.Transport | None = None
        self._reader: asyncio.Protocol | None = None

    def watch(self, transport: asyncio.BaseTransport | None) -> None:
        """Stand between a connection and what reads it; nothing where the client has left."""
        if isinstance(transport, asyncio.Transport) and isinstance(
            reader := transport.get_protocol(), asyncio.Protocol
        ):
            self._transport, self._reader = transport, reader
            for name in ("connection_lost", "eof_received", "pause_writing", "resume_writing"):
                setattr(self, name, getattr(reader, name))
            transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Count a piece and pass it on, or break the connection off."""
        self._arriving += len(data)
        try:
            self._count()
        except TooManyBytes:
            if self._transport is not None:
                self._transport.abort()
        else:
            if self._reader is not None:
                self._reader.data_received(data)

    def end(self) -> None:
        """Count nothing any more."""
        self._kept.release()
        if self._transport is not None and self._reader is not None and not self._transport.is_closing():
            self._transport.set_protocol(self._reader)

    def whole(self, size_bytes: int) -> None:
        """Note that a message of this size has come whole."""
        self._arriving = max(0, self._arriving - size_bytes - FRAME_HEAD_BYTES)
        self._count()

    def waits(self, size_bytes: int) -> None:
        """Note that a message of this size waits; below zero: that it waits no more."""
        self._waiting += size_bytes
        self._count()

    def _count(self) -> None:
        """Count a message's bytes. Raises `TooManyBytes`, which takes more bytes than there were."""
        size_bytes = self._arriving + self._waiting
        self._kept.grow(size_bytes if size_bytes > UNCOUNTED_BYTES else 0)


class _Connection:
    """One client's connection, and its one to a provider."""

    def __init__(
        self,
        proxy: Proxy,
        socket: web.WebSocketResponse,
        request: web.Request,
        match: Match,
        transport: SocketTransport,
        incoming: _Incoming,
    ) -> None:
        self._proxy = proxy
        self._socket = socket
        self._request = request
        self._match = match
        self._transport = transport
        self._incoming = incoming
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(MOST_WAITING + 1)
        self._stopping = asyncio.Event()
        self._serving: FrameExchange | None = None
        self._close_code = WSCloseCode.GOING_AWAY
        self.account_id = ""
        self.client_write_timeout_s = CLIENT_WRITE_TIMEOUT_S
        self.idle_since_s: float | None = asyncio.get_running_loop().time()
        """Since when no message is served or waits, by the loop's clock; None while one is."""

    def stop(self, code: WSCloseCode = WSCloseCode.GOING_AWAY) -> None:
        """Take no further message."""
        self._close_code = code
        self._stopping.set()

    async def run(self, max_s: float) -> None:
        """Serve messages until the client leaves, or time is over."""
        worker, reader = asyncio.create_task(self._work()), asyncio.create_task(self._read())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((worker, reader, stopping), timeout=max_s, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done() and not worker.done():  # the client is there: its last answer may end
                self._stopping.set()
                self._waiting.put_nowait(None)
                await asyncio.wait((worker, reader), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # by the server, as it stops: where the client leaves, `reader` ends
            if self._serving is not None:
                self._serving.cut_for = self._serving.cut_for or "shutting_down"
            raise
        finally:
            for task in (worker, reader, stopping):
                task.cancel()
            for ended in await asyncio.gather(worker, reader, stopping, return_exceptions=True):
                if isinstance(ended, Exception):
                    logger.error("a client's WebSocket broke off", exc_info=ended)
            await self._transport.close()
        await self._socket.close(code=self._close_code)

    async def _read(self) -> None:
        """Take messages until the client leaves."""
        while True:
            message = await self._socket.receive()
            if message.type not in _MESSAGES:
                return
            data = message.data if isinstance(message.data, bytes) else message.data.encode("utf-8", "replace")
            self._incoming.whole(len(data))
            if self._stopping.is_set() or self._waiting.qsize() >= MOST_WAITING:
                exchange = self._exchange(data)
                self._proxy.count(TOO_MANY).answer(exchange, self._proxy.new_id())
                await exchange.flushed()
            else:
                self._incoming.waits(len(data))
                self._waiting.put_nowait(data)
                self.idle_since_s = None

    async def _work(self) -> None:
        """Serve messages one after the other."""
        while (data := await self._waiting.get()) is not None:
            self._incoming.waits(-len(data))  # the handler counts it
            self._serving = exchange = self._exchange(data)
            await self._proxy.handle(exchange)
            await exchange.flushed()
            if not exchange.whole:
                return exchange.abort()
            if self._waiting.empty():
                self.idle_since_s = asyncio.get_running_loop().time()
        return None

    def _exchange(self, data: bytes) -> FrameExchange:
        return FrameExchange(
            self._socket,
            self._request,
            self._match,
            data,
            self._transport,
            client_write_timeout_s=self.client_write_timeout_s,
        )


TOO_MANY: Final = refusals.Refusal(
    429,
    "concurrency_exceeded",
    "Too many messages wait on this WebSocket, or it is about to end: wait for answers, or open another one.",
    type="rate_limit_error",
    retry_after_s=1,
)


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Return the answer to a handshake. One that sends the request elsewhere is an error: the headers have a key."""
    response = await handler(request)
    if HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST:
        response.close()
        raise aiohttp.WSServerHandshakeError(response.request_info, (), status=response.status)
    return response
