"""The transport to real providers, behind the port of `gateway.upstream.base`: kept-alive connections, or the proxy
that the environment names (`gateway.upstream.http_proxy`).

Proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY, looked up once per origin; `.netrc` is not read. Redirects
are not followed: they would carry the provider's key to another host. Messages name the host and the kind of failure,
never a path, a query or a header; the libraries' own errors hold the whole URL and are not chained.

Providers close idle connections: one that has idled for a while is checked before it is used, so that nothing is
written to one that is closed already. What remains is a request that crosses the close on the wire. That can't be told
from a provider that took the request and died, and a POST must not be repeated unless it is known not to have been
applied, or to be applied once (RFC 9110, 9.2.2; Go's client draws the same line): so only a request that carries an
Idempotency-Key, or whose method is safe, is sent once more, over a new connection. Every other failure is an
`UpstreamError`, and routing decides.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from gateway.upstream.base import UPLOAD_BYTES_PER_S, ConnectionSlots, UpstreamCut, UpstreamRequest, UpstreamUnreachable
from gateway.upstream.connection import Connection, StaleConnection
from gateway.upstream.http_proxy import ProxiedResponse, ProxiedTransport

if TYPE_CHECKING:
    from gateway.upstream.connection import Response

KEEPALIVE_S: Final = 75.0  # how long a connection may idle in the pool
URLS_MAX: Final = 1_024  # addresses whose proxy is cached
ACCOUNT_SHARE: Final = 0.5
WAITING: Final = 1_000
BODILESS: Final = ("GET", "HEAD", "OPTIONS")
IDEMPOTENCY_KEY: Final = b"idempotency-key: "
# A connection that has idled for longer is checked before it is used.
CHECKED_AFTER_S: Final = 0.5
TARGETS_MAX: Final = 1_024  # addresses whose parts are cached


class Origin:
    """Where connections go, and the idle ones."""

    __slots__ = ("host", "idle", "port", "tls")

    def __init__(self, url: URL) -> None:
        self.host = url.host or "no host"
        self.port = url.port or 443
        self.tls = url.scheme == "https"
        self.idle: list[tuple[Connection, float]] = []

    def forget(self, connection: Connection) -> None:
        """Forget a connection that was lost."""
        self.idle = [(idle, since) for idle, since in self.idle if idle is not connection]


class Target:
    """One address with one method: its origin, and what every request's head begins with."""

    __slots__ = ("begins", "origin")

    def __init__(self, origin: Origin, begins: bytes) -> None:
        self.origin = origin
        self.begins = begins


class ConnectionPool:
    """Connections of one process to one provider, in use by `slots`. Made inside a running event loop."""

    def __init__(
        self, slots: ConnectionSlots, *, connect_timeout_s: float, timeout_s: float, keepalive_s: float
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._slots = slots
        self._origins: dict[tuple[str, str | None, int | None], Origin] = {}
        self._targets: dict[tuple[str, str], Target] = {}
        self._used: dict[Connection, tuple[Origin, str]] = {}
        """Where it goes, and the account whose request it carries."""
        self._tls: ssl.SSLContext | None = None
        self._closed = False
        self._on_release: Callable[[Connection, bool], None] = self._give_back

    async def send(self, request: UpstreamRequest) -> Response:
        """Return the answer's head. Raises `UpstreamBusy`, `UpstreamUnreachable` and `UpstreamTimeout`. See
        `Transport.send`."""
        target = self._targets.get((request.method, request.url)) or self._target(request)
        origin, body = target.origin, request.body
        framing = b"Content-Length: %d\r\n\r\n" % len(body) if body or request.method not in BODILESS else b"\r\n"
        head, upload_s = target.begins + request.headers + framing, len(body) / UPLOAD_BYTES_PER_S
        account = request.account
        if not self._slots.acquire_now(account):
            await self._slots.wait(account, origin.host, self._connect_timeout_s)
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
            self._slots.release(account)
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
        """Return the connection that idled least, if it can still be used."""
        while origin.idle:
            connection, since = origin.idle.pop()
            idled_s = self._loop.time() - since
            fresh = connection.usable and idled_s < self._keepalive_s
            if fresh and (idled_s < CHECKED_AFTER_S or not connection.hung_up()):
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
        self._slots.release(account)
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


class HttpTransport:
    """One pool of connections for one provider. Made inside a running event loop; `close` it at the end."""

    def __init__(
        self,
        *,
        connections: int,
        connect_timeout_s: float,
        timeout_s: float,
        account_share: float = ACCOUNT_SHARE,
        waiting: int = WAITING,
    ) -> None:
        """At most `connections` at once, of them `account_share` (of 1) for one account, at least one; `waiting`
        requests wait for one, as long as for connecting.

        `timeout_s` is the longest silence of a provider. Raises `ValueError` unless they are above zero.
        """
        if connections < 1 or connect_timeout_s <= 0 or timeout_s <= 0:
            raise ValueError("connections, connect_timeout_s and timeout_s must be above zero")
        slots = ConnectionSlots(connections, max(1, int(connections * account_share)), waiting)
        self._pool = ConnectionPool(
            slots, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s, keepalive_s=KEEPALIVE_S
        )
        self._proxied = ProxiedTransport(
            slots, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s, keepalive_s=KEEPALIVE_S
        )
        self._proxies: dict[str, URL | None] = {}

    def send(self, request: UpstreamRequest) -> Coroutine[Any, Any, Response | ProxiedResponse]:
        """Return the answer's head. Raises `UpstreamBusy`, `UpstreamUnreachable` and `UpstreamTimeout`."""
        url = request.url
        if url not in self._proxies:
            if len(self._proxies) >= URLS_MAX:
                self._proxies.clear()
            self._proxies[url] = _environment_proxy(URL(url))
        proxy = self._proxies[url]
        if proxy is None:
            return self._pool.send(request)
        return self._proxied.send(request, proxy)

    async def close(self) -> None:
        """Close every connection; answers that are still being read are cut."""
        self._pool.close()
        await self._proxied.close()


def _environment_proxy(url: URL) -> URL | None:
    """Return the proxy that the environment names for a URL, with the credentials that stand in its address."""
    named = getproxies().get(url.scheme)
    if not named or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    return URL(named if "://" in named else f"http://{named}")
