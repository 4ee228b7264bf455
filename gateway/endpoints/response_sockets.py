"""`GET /v1/responses` as a WebSocket: each message of a client is admitted, metered and settled as a request.

Messages are served in the order in which they came, one at a time, over one connection to the provider. A few may wait,
counted with the bodies in memory; more are refused. A connection ends at `max_s`, after the answer that is under way. Where the client leaves, that answer
is read on and charged as every stream is (`gateway.proxy.remainder`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web

from billing.errors import StoreError
from gateway.auth import attempts_refused, key_of
from gateway.server import refusals
from gateway.server.bodies import TooManyBytes
from gateway.server.frames import FrameExchange
from gateway.server.refusals import Refuse
from gateway.upstream.socket import SocketTransport, refuse_redirects

if TYPE_CHECKING:
    from gateway.dialects.base import Match
    from gateway.proxy.handler import Proxy
    from gateway.server.bodies import Kept
    from gateway.server.edge import Find
    from gateway.upstream.socket import SocketRules

PING_S: Final = 30.0
MOST_WAITING: Final = 4
_MESSAGES: Final = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})


@dataclass(frozen=True, slots=True)
class ClientSocketRules:
    """The bounds of clients' connections: how many one process has, and of one account; seconds that one lasts, and
    bytes of a message."""

    most: int
    most_of_account: int
    max_s: float
    max_message_bytes: int


class ResponseSockets:
    """Clients' connections of one process."""

    def __init__(self, proxy: Proxy, find: Find, rules: ClientSocketRules, upstream: SocketRules) -> None:
        self._proxy = proxy
        self._find = find
        self._rules = rules
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None
        self._open: set[_Connection] = set()
        self._of_account: Counter[str] = Counter()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection to its end, or refuse it."""
        match = self._find(request.method, request.path, request.headers)
        upgrades = web.WebSocketResponse().can_prepare(request).ok
        try:
            if match is None or not upgrades:
                allowed = "POST, and GET as a WebSocket"
                raise Refuse(refusals.method_not_allowed(request.method, request.path, allowed))
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
        proxy, rules = self._proxy, self._rules
        secret = key_of(request.headers, request.raw_path, match.dialect)
        principal = proxy.cached(secret) or await proxy.admit(secret, request.remote or "", request.headers)
        account_id = principal.account_id
        if len(self._open) >= rules.most or self._of_account[account_id] >= rules.most_of_account:
            raise Refuse(refusals.unavailable("Too many WebSockets are open here: close some, or try again later."))
        if self._session is None:
            self._session = aiohttp.ClientSession(
                trust_env=True,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=0),
                middlewares=(refuse_redirects,),
            )
        socket = web.WebSocketResponse(
            heartbeat=PING_S, max_msg_size=rules.max_message_bytes, compress=False, timeout=self._upstream.connect_s
        )
        transport = SocketTransport(self._session, self._upstream)
        connection = _Connection(proxy, account_id, socket, request, match, transport)
        self._open.add(connection)
        self._of_account[account_id] += 1
        try:
            await socket.prepare(request)
            await connection.run(rules.max_s)
        finally:
            self._open.discard(connection)
            self._of_account[account_id] -= 1
            if not self._of_account[account_id]:
                del self._of_account[account_id]
        return socket


class _Connection:
    """One client's connection, and its one to a provider."""

    def __init__(
        self,
        proxy: Proxy,
        account_id: str,
        socket: web.WebSocketResponse,
        request: web.Request,
        match: Match,
        transport: SocketTransport,
    ) -> None:
        self._proxy = proxy
        self._account_id = account_id
        self._socket = socket
        self._request = request
        self._match = match
        self._transport = transport
        self._waiting: asyncio.Queue[tuple[bytes, Kept] | None] = asyncio.Queue(MOST_WAITING + 1)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Take no further message."""
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
        finally:
            for task in (worker, reader, stopping):
                task.cancel()
            await asyncio.gather(worker, reader, stopping, return_exceptions=True)
            while not self._waiting.empty():
                if (left := self._waiting.get_nowait()) is not None:
                    left[1].release()
            await self._transport.close()
        await self._socket.close(code=WSCloseCode.GOING_AWAY)

    async def _read(self) -> None:
        """Take messages until the client leaves."""
        while True:
            message = await self._socket.receive()
            if message.type not in _MESSAGES:
                return
            data = message.data if isinstance(message.data, bytes) else message.data.encode("utf-8", "replace")
            refused = TOO_MANY
            if not self._stopping.is_set() and self._waiting.qsize() < MOST_WAITING:
                kept = self._proxy.body_of(self._account_id)
                try:
                    kept.grow(len(data))
                    self._waiting.put_nowait((data, kept))
                    continue
                except TooManyBytes as error:
                    refused = refusals.too_many_bytes(error.whose)
            exchange = self._exchange(data)
            self._proxy.count(refused).answer(exchange, self._proxy.new_id())
            await exchange.flushed()

    async def _work(self) -> None:
        """Serve messages one after the other."""
        while (waited := await self._waiting.get()) is not None:
            data, kept = waited
            kept.release()  # it is counted as every request's body is, from here on
            exchange = self._exchange(data)
            del waited, data
            await self._proxy.handle(exchange)
            await exchange.flushed()
            if not exchange.whole:
                return exchange.abort()
        return None

    def _exchange(self, data: bytes) -> FrameExchange:
        return FrameExchange(self._socket, self._request, self._match, data, self._transport)


TOO_MANY: Final = refusals.Refusal(
    429,
    "concurrency_exceeded",
    "Too many messages wait on this WebSocket, or it is about to end: wait for answers, or open another one.",
    type="rate_limit_error",
    retry_after_s=1,
)
