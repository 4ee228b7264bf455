"""Browsers from other origins (CORS): who may call, with what, and what of an answer they may see.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol. Nothing here is asked where CORS_ORIGINS is unset. Cookies
are never allowed (`Access-Control-Allow-Credentials` is not sent): a caller shows its key itself, so an origin adds no
right that the key does not have.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway.dialects.declared import KEY_HEADERS, of_all
from gateway.server.ids import (
    ATTEMPTS,
    BALANCE,
    CHARGE,
    COST,
    GRANTED,
    GRANTED_CALLS,
    MODEL,
    PROVIDER,
    REQUEST_ID,
    UPSTREAM_REQUEST_ID,
)

ANY: Final = "*"
METHODS: Final = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
# How long a browser need not ask again; none of them remembers it for longer.
MAX_AGE_S: Final = 7200
# What the paths begin with that show their key in a header: those of every dialect, and the billing API.
PATHS: Final = (*of_all(lambda each: each.paths), "/api/")
# Headers that a browser may send, in lower case, beside those that begin with one of ALLOWED_PREFIXES.
ALLOWED: Final = (
    "authorization",
    "content-type",
    "accept",
    *KEY_HEADERS,
    "x-admin-key",
    "x-service-name",
    "x-organization-id",
    "x-request-id",
    "x-metergate-include-cost",
    "x-metergate-tags",
    "x-metergate-body-log",
    "idempotency-key",
    *of_all(lambda each: (*each.sent_headers, *each.browser_headers)),
)
# Each name must be told to a browser, a prefix can't be.
ALLOWED_PREFIXES: Final = of_all(lambda each: each.sent_prefixes)
MAX_ASKED: Final = 64
EXPOSED: Final = ", ".join(
    (
        REQUEST_ID,
        UPSTREAM_REQUEST_ID,
        CHARGE,
        COST,
        BALANCE,
        GRANTED,
        GRANTED_CALLS,
        PROVIDER,
        MODEL,
        ATTEMPTS,
        *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "idempotent-replayed",
    )
)


class Cors:
    """The answers to browsers' cross-origin requests. `origins` as the variable has them; at least one."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = ANY in origins
        self._by_origin = {origin.lower(): _headers(origin.lower()) for origin in origins}  # as browsers spell them
        self._others = {"Vary": "Origin"}
        self._lines = {origin: _lines(headers) for origin, headers in self._by_origin.items()}
        self._other_lines = _lines(self._others)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return what an answer says to a page of this origin."""
        return self._by_origin.get(self._known(origin), self._others)

    def lines(self, origin: str | None) -> bytes:
        """Return the same as header lines, each with its CRLF."""
        return self._lines.get(self._known(origin), self._other_lines)

    def _known(self, origin: str | None) -> str:
        return ANY if self._any else (origin or "").lower()

    async def on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add it to an answer of the application."""
        headers, varies = self.headers(request.headers.get("Origin")), response.headers.get("Vary")
        response.headers.update(headers if varies is None else {**headers, "Vary": f"{varies}, {headers['Vary']}"})

    def preflight(self, request: web.Request) -> web.Response | None:
        """Return the answer to a browser that asks what it may send, without a key; None for any other request."""
        asked = "Access-Control-Request-Method" in request.headers and "Origin" in request.headers
        if request.method != "OPTIONS" or not asked or not request.path.startswith(PATHS):
            return None
        names = request.headers.get("Access-Control-Request-Headers", "").lower().split(",", MAX_ASKED)[:MAX_ASKED]
        more = sorted({name for each in names if (name := each.strip()).startswith(ALLOWED_PREFIXES)})
        headers = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": ", ".join((*ALLOWED, *more)),
            "Access-Control-Max-Age": str(MAX_AGE_S),
        }
        return web.Response(status=204, headers=headers)


def answering(cors: Cors) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Return a middleware that answers preflights."""

    @web.middleware
    async def preflights(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        return cors.preflight(request) or await handler(request)

    return preflights


def _headers(origin: str) -> dict[str, str]:
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED, "Vary": "Origin"}


def _lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
