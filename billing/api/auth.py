"""Who may call: the admin key for /api/admin, an API key with a scope for what customers read.

This file owns the rule that a presented admin key is compared in constant time.
"""

import hmac
from typing import Final

from aiohttp import web

from billing.api.errors import InsufficientScope, Unauthorized
from billing.api.services import SERVICES, Handler
from billing.principals import Principal

ADMIN_HEADER: Final = "X-Admin-Key"
KEY_HEADERS: Final = ("x-api-key", "x-goog-api-key")
BILLING_READ: Final = "billing:read"
_BEARER: Final = "bearer"


def admin_only(handler: Handler) -> Handler:
    """The handler behind the admin key; without one configured, behind a closed door."""

    async def guarded(request: web.Request) -> web.Response:
        expected = request.app[SERVICES].admin_api_key
        given = request.headers.get(ADMIN_HEADER, "")
        if not expected or not hmac.compare_digest(_bytes(given), _bytes(expected)):
            raise Unauthorized(f"This call needs the admin key in {ADMIN_HEADER}.")
        return await handler(request)

    return guarded


async def caller(request: web.Request) -> Principal:
    """The principal of the request's API key. A suspended account is one too. Raises `Unauthorized`."""
    services = request.app[SERVICES]
    secret = _presented(request)
    principal = await services.authenticate(secret) if secret else None
    if principal is None or not principal.usable_key(services.clock()):
        said = "This API key is wrong, revoked or expired." if secret else "This call needs an API key."
        raise Unauthorized(f"{said} Send it as Authorization: Bearer.")
    return principal


def require_scope(principal: Principal, scope: str) -> None:
    """Raises `InsufficientScope` when the key lacks the scope."""
    if scope not in principal.scopes:
        raise InsufficientScope(f"This API key lacks the scope {scope}.", required_scope=scope)


def _presented(request: web.Request) -> str:
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == _BEARER and secret:
        return secret.strip()
    return next((request.headers[name] for name in KEY_HEADERS if request.headers.get(name)), "")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
