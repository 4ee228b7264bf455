"""Who may call: the admin key for /api/admin, an API key with a scope for what customers read.

This file owns the rule that a presented admin key is compared in constant time, that wrong keys are counted, and that
no refused address learns whether an admin key that could be guessed is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.api.errors import InsufficientScope, Unauthorized
from billing.api.services import SERVICES
from billing.errors import INCORRECT_KEY
from billing.keys.presented import bearer_of, presented_key
from billing.keys.secrets import made_at_random, same_secret

if TYPE_CHECKING:
    from aiohttp import web

    from billing.attempts import Attempts
    from billing.principals import Principal

ADMIN_HEADER: Final = "X-Admin-Key"
BILLING_READ: Final = "billing:read"
_SEND_KEY: Final = "Send one of this gateway's keys as `Authorization: Bearer mg_...`."


async def require_admin(
    request: web.Request, expected: str, attempts: Attempts, *, or_bearer: bool = False, hint: str = ""
) -> None:
    """Reject a request without the admin key, in `X-Admin-Key` or, with `or_bearer`, as a bearer; with an empty
    `expected` every request. A wrong one is counted; `hint` is added to the message.

    Raises `Unauthorized` and `TooManyAttempts`.
    """
    given = request.headers.get(ADMIN_HEADER, "") or (bearer_of(request.headers) if or_bearer else "")
    if not await _is_admin(request, given, expected, attempts):
        how = f"in {ADMIN_HEADER} or as Authorization: Bearer" if or_bearer else f"as {ADMIN_HEADER}"
        raise Unauthorized(f"{INCORRECT_KEY}: this call needs the admin key, {how}. {hint}".rstrip())


async def _is_admin(request: web.Request, given: str, expected: str, attempts: Attempts) -> bool:
    """Return whether what a request gives is the admin key; what is another has failed. Raises `TooManyAttempts`.

    A key with 256 random bits passes also where the address has shown too many wrong ones: to be told so of each guess
    helps nobody to find it. Of any other key a refused address is not told whether it is right.
    """
    if not expected or not given:
        return False
    if made_at_random(expected) and same_secret(given, expected):
        return True
    peer = request.remote or ""
    attempts.refuse_blocked(peer, request.headers)
    if same_secret(given, expected):
        return True
    await attempts.failed(peer, request.headers)
    return False


async def caller(request: web.Request) -> Principal:
    """Return the principal of the request's API key, which may be of a suspended account. Raises `Unauthorized`,
    `DifferentKeys` and `TooManyAttempts`."""
    services = request.app[SERVICES]
    secret = presented_key(request.headers)
    if secret is None:
        raise Unauthorized(f"{INCORRECT_KEY}: there is none. {_SEND_KEY}")

    async def check() -> Principal | None:
        found = await services.authenticate(secret)
        return found if found is not None and found.usable_key(services.clock()) else None

    peer, known = request.remote or "", services.known(secret)
    principal = await services.attempts.attempt(peer, request.headers, check, known=known)
    if principal is None:
        raise Unauthorized(f"{INCORRECT_KEY}: it is wrong, revoked or expired. {_SEND_KEY}")
    return principal


def require_scope(principal: Principal, scope: str) -> None:
    """Reject a key that lacks the scope. Raises `InsufficientScope`."""
    if scope not in principal.scopes:
        raise InsufficientScope(f"This API key lacks the scope {scope}.", required_scope=scope)
