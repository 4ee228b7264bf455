"""The edge of `edge: plain`: aiohttp as it is, by its public parts alone, for a version that the edge does not know.

Metered requests take the application's way, and their answers are written by the same `Exchange`. Admission, metering
and settlement are the same. What it costs, and what of the guarded edge's bounds it does not hold, is in
docs/reliability.md; keep the two alike.

aiohttp's parser takes the last trailer of a chunked request for the first header of the next one on its connection
(`gateway.server.heads`). Here nothing looks at trailers: a connection ends with its first chunked request.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import ClientConnectionResetError, HttpVersion, web
from aiohttp.hdrs import TRANSFER_ENCODING
from multidict import CIMultiDictProxy

from gateway.server.exchange import Exchange, Written
from gateway.server.listening import BACKLOG

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator

    from gateway.dialects.base import Match
    from gateway.server.clients import Clients
    from gateway.server.guard import EdgeRules

# More than this that waits to be sent makes an exchange wait for its client, until less than LOW_BYTES wait.
HIGH_BYTES: Final = 65_536
LOW_BYTES: Final = 16_384
# How often it is looked whether a client that has to catch up has.
DRAIN_LOOK_S: Final = 0.01
# How often it is looked whether a client has left: by then its request is cancelled.
GONE_LOOK_S: Final = 0.2
READ_BYTES: Final = 131_072

RULES: Final = web.AppKey("edge_rules", object)
CLIENTS: Final = web.AppKey("edge_clients", object)


@dataclass(frozen=True, slots=True)
class PlainHead:
    """A request's line and headers, as an `Exchange` reads them."""

    path: str
    version: HttpVersion
    headers: CIMultiDictProxy[str]
    raw_headers: tuple[tuple[bytes, bytes], ...]
    should_close: bool
    chunked: bool

    @classmethod
    def of(cls, request: web.Request) -> PlainHead:
        """Return the head of a request; its connection ends with it where it is chunked."""
        chunked = is_chunked(request)
        return cls(
            request.raw_path,
            request.version,
            request.headers,
            request.raw_headers,
            chunked or not request.keep_alive,
            chunked,
        )


class PlainConnection:
    """What an `Exchange` asks of a client's connection, by public parts of aiohttp and asyncio alone."""

    _close = _force_close = False
    account = ""

    @property
    def _leaves(self) -> bool:
        clients = cast("Clients | None", self._request.app[CLIENTS])
        return clients is not None and clients.leaving

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def transport(self) -> asyncio.Transport | None:
        """Return the connection; None once it is lost."""
        return self._request.transport

    @property
    def _paused(self) -> bool:
        transport = self.transport
        return transport is not None and transport.get_write_buffer_size() > HIGH_BYTES

    async def _drain_helper(self) -> None:
        """Wait until the client has taken what was written. Raises `ClientConnectionResetError` where it has left."""
        while True:
            transport = self.transport
            if transport is None or transport.is_closing():
                raise ClientConnectionResetError("Connection lost")
            if transport.get_write_buffer_size() <= LOW_BYTES:
                return
            await asyncio.sleep(DRAIN_LOOK_S)

    def claim(self, account: str) -> bool:
        """Return True: no account has a share here."""
        return True

    async def made(self, size_bytes: int, account: str) -> None:
        """Return at once: no pace is kept here."""

    @contextmanager
    def watched(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """Cancel `task`, which serves the request, where the client leaves while this is open."""

        self._look(task)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _look(self, task: asyncio.Task[Any]) -> None:
        transport, self._timer = self.transport, None
        if transport is None or transport.is_closing():
            task.cancel()
        else:
            self._timer = self._loop.call_later(GONE_LOOK_S, self._look, task)


class PlainRunner(web.AppRunner):
    """Runs an application as aiohttp does; options are those of `web.AppRunner`."""

    def __init__(
        self, app: web.Application, rules: EdgeRules, *, clients: Clients | None = None, **options: Any
    ) -> None:
        app[RULES], app[CLIENTS] = rules, clients
        app.on_response_prepare.append(_end_after_chunks)
        own = {"auto_decompress": False, "read_bufsize": READ_BYTES, "lingering_time": rules.linger_s}
        super().__init__(app, **{**options, **own, "access_log": None})

    def site(self, listener: socket.socket) -> web.BaseSite:
        """Return what accepts connections of a listening socket; after `setup`."""
        return web.SockSite(self, listener, backlog=BACKLOG)


def is_chunked(request: web.BaseRequest) -> bool:
    """Return whether a request's body came in chunks."""
    return TRANSFER_ENCODING in request.headers


async def _end_after_chunks(request: web.Request, response: web.StreamResponse) -> None:
    if is_chunked(request):
        response.force_close()
        response.headers["Connection"] = "close"


async def expected(_: web.Request) -> None:
    """Answer `Expect` at a metered endpoint with nothing yet: its exchange asks for the body once the key is known."""


async def serve_plainly(
    serve: Callable[[Exchange], Awaitable[None]], request: web.Request, match: Match
) -> web.StreamResponse:
    """Serve a metered request of aiohttp's own connection; it is cancelled when its client leaves."""
    connection, rules = PlainConnection(request), cast("EdgeRules", request.app[RULES])
    exchange = Exchange(
        connection, PlainHead.of(request), request.content, match, rules.cors, rules.client_write_timeout_s
    )
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (aiohttp runs every handler in a task)
    try:
        with connection.watched(task):
            await serve(exchange)
            await exchange.flushed()
    finally:
        if not exchange.whole:
            exchange.abort()
    return Written(exchange)
