"""Kept-alive connections to providers, on `gateway.upstream.connection`, for a small part of a client session's CPU.

This file owns the connections: how many there are, which idle ones may be used again, and when a request is sent twice.
Providers close idle connections: one that has idled for a while is looked at before it is used, so that nothing is
written to one that is closed already. What remains is a request that crosses the close on the wire. Nothing tells that
from a provider that took the request and died, and a POST must not be repeated unless it is known not to have been
applied, or to be applied once (RFC 9110, 9.2.2; Go's client draws the same line): so only a request that carries an
Idempotency-Key, or whose method is safe, is sent once more, over a new connection.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from yarl import URL

from gateway.upstream.base import UpstreamCut, UpstreamRequest, UpstreamUnreachable
from gateway.upstream.connection import Connection, StaleConnection
from gateway.upstream.response import Response
from gateway.upstream.turns import Turns

UPLOAD_BYTES_PER_S: Final = 65_536  # the slowest upload that is waited for
BODILESS: Final = ("GET", "HEAD", "OPTIONS")
IDEMPOTENCY_KEY: Final = b"idempotency-key: "
LOOKED_AT_AFTER_S: Final = 0.5
"""A connection that has idled for longer is looked at before it is used."""
TARGETS_MAX: Final = 1_024  # addresses whose parts are remembered


class Origin:
    """Where connections go, and the idle ones."""

    __slots__ = ("host", "idle", "port", "tls")

    def __init__(self, url: URL) -> None:
        self.host = url.host or "no host"
        self.port = url.port or 443
        self.tls = url.scheme == "https"
        self.idle: list[tuple[Connection, float]] = []

    def forget(self, connection: Connection) -> None:
        """A connection was lost."""
        self.idle = [(idle, since) for idle, since in self.idle if idle is not connection]


class Target:
    """One address with one method: its origin, and what every request's head begins with."""

    __slots__ = ("begins", "origin")

    def __init__(self, origin: Origin, begins: bytes) -> None:
        self.origin = origin
        self.begins = begins


class ConnectionPool:
    """Connections of one process to one provider, in use by `turns`. Made inside a running event loop."""

    def __init__(self, turns: Turns, *, connect_timeout_s: float, timeout_s: float, keepalive_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._turns = turns
        self._origins: dict[tuple[str, str | None, int | None], Origin] = {}
        self._targets: dict[tuple[str, str], Target] = {}
        self._used: dict[Connection, tuple[Origin, str]] = {}
        """Where it goes, and the account whose request it carries."""
        self._tls: ssl.SSLContext | None = None
        self._closed = False
        self._on_release: Callable[[Connection, bool], None] = self._give_back

    async def send(self, request: UpstreamRequest) -> Response:
        """The answer's head. Raises `UpstreamBusy`, `UpstreamUnreachable` and `UpstreamTimeout`. See
        `Transport.send`."""
        target = self._targets.get((request.method, request.url)) or self._target(request)
        origin, body = target.origin, request.body
        framing = b"Content-Length: %d\r\n\r\n" % len(body) if body or request.method not in BODILESS else b"\r\n"
        head, upload_s = target.begins + request.headers + framing, len(body) / UPLOAD_BYTES_PER_S
        account = request.account
        if not self._turns.take(account):
            await self._turns.wait(account, origin.host, self._connect_timeout_s)
        connection: Connection | None = None
        try:
            connection = self._idle(origin) or await self._connect(origin)
            self._used[connection] = origin, account
            try:
                answer = await connection.send(head, body, upload_s)
            except StaleConnection:
                if request.method not in BODILESS and IDEMPOTENCY_KEY not in request.headers.lower():
                    raise
                del self._used[connection]
                connection = await self._connect(origin)
                self._used[connection] = origin, account
                answer = await connection.send(head, body, upload_s)
        except BaseException:
            pending = connection.unanswered if connection is not None else None
            if pending is not None:
                pending.on_release, request.pending = self._on_release, pending
                raise
            if connection is not None:
                self._used.pop(connection, None)
            self._turns.give(account)
            raise
        answer.on_release = self._on_release
        return answer

    def _target(self, request: UpstreamRequest) -> Target:
        if len(self._targets) >= TARGETS_MAX:
            self._targets.clear()
        url = URL(request.url)
        begins = f"{request.method} {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n"
        target = self._targets[request.method, request.url] = Target(self._origin(url), begins.encode())
        return target

    def _origin(self, url: URL) -> Origin:
        name = (url.scheme, url.host, url.port)
        origin = self._origins.get(name)
        if origin is None:
            origin = self._origins[name] = Origin(url)
        return origin

    def _idle(self, origin: Origin) -> Connection | None:
        """The connection that idled least, if it can still be used."""
        while origin.idle:
            connection, since = origin.idle.pop()
            idled_s = self._loop.time() - since
            fresh = connection.usable and idled_s < self._keepalive_s
            if fresh and (idled_s < LOOKED_AT_AFTER_S or not connection.hung_up()):
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(origin.host, self._timeout_s, self._loop),
                    origin.host,
                    origin.port,
                    ssl=self._tls if origin.tls else None,
                    server_hostname=origin.host if origin.tls else None,
                )
        except TimeoutError:
            raise UpstreamUnreachable(f"{origin.host}: no connection within {self._connect_timeout_s:g} s") from None
        except OSError as error:
            raise UpstreamUnreachable(
                f"{origin.host}: no connection ({error.strerror or type(error).__name__})"
            ) from None
        connection.on_lost = origin.forget
        return connection

    def _give_back(self, connection: Connection, free: bool) -> None:
        origin, account = self._used.pop(connection)
        self._turns.give(account)
        if free and not self._closed:
            origin.idle.append((connection, self._loop.time()))
        else:
            connection.close()

    def close(self) -> None:
        """Close every connection; answers that are being read are cut."""
        self._closed = True
        for connection, (origin, _) in self._used.items():
            connection.fail(UpstreamCut(f"{origin.host}: the gateway is closing"))
        for origin in self._origins.values():
            for connection, _ in origin.idle:
                connection.close()
            origin.idle = []
