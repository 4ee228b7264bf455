"""The transport to real providers, behind the port of `gateway.upstream.base`: directly over `gateway.upstream.pool`,
or through the proxy that the environment names for them (`gateway.upstream.http_proxy`).

Proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY, looked up once per origin; `.netrc` is not read. Redirects
are not followed: they would carry the provider's key to another host.

A request is sent once, but for what `gateway.upstream.pool` says of kept-alive connections. Whatever else goes wrong is
an `UpstreamError`, and routing decides.

Messages name the host and the kind of failure, never a path, a query or a header; the libraries' own errors hold the
whole URL and are not chained.
"""

from collections.abc import Coroutine
from typing import Any, Final
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from gateway.upstream.base import UpstreamRequest
from gateway.upstream.http_proxy import ProxiedResponse, ProxiedTransport
from gateway.upstream.pool import ConnectionPool
from gateway.upstream.response import Response
from gateway.upstream.turns import Turns

KEEPALIVE_S: Final = 75.0  # how long a connection may idle in the pool
URLS_MAX: Final = 1_024  # addresses whose proxy is remembered
ACCOUNT_SHARE: Final = 0.5
WAITING: Final = 1_000


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
        turns = Turns(connections, max(1, int(connections * account_share)), waiting)
        self._pool = ConnectionPool(
            turns, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s, keepalive_s=KEEPALIVE_S
        )
        self._proxied = ProxiedTransport(
            turns, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s, keepalive_s=KEEPALIVE_S
        )
        self._proxies: dict[str, URL | None] = {}

    def send(self, request: UpstreamRequest) -> Coroutine[Any, Any, Response | ProxiedResponse]:
        """The answer's head. Raises `UpstreamBusy`, `UpstreamUnreachable` and `UpstreamTimeout`."""
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
    """The proxy that the environment names for a URL, with the credentials that stand in its address."""
    named = getproxies().get(url.scheme)
    if not named or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    return URL(named if "://" in named else f"http://{named}")
