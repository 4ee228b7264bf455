"""Who may call: the admin key for /api/admin, an API key with a scope for what customers read.

This file owns the rule that a presented admin key is compared in constant time, that wrong keys are counted, and that
nobody learns from a refused address whether a key that could be guessed is right.
"""

from typing import Final

from aiohttp import web

from billing.api.errors import InsufficientScope, Unauthorized
from billing.api.services import SERVICES, Handler
from billing.attempts import Attempts
from billing.keys.presented import DifferentKeys, presented_key
from billing.keys.secrets import made_at_random, same_secret
from billing.principals import Principal

ADMIN_HEADER: Final = "X-Admin-Key"
BILLING_READ: Final = "billing:read"
INCORRECT_KEY: Final = "Incorrect API key provided"
"""What OpenAI's 401 begins with, by which some clients tell a wrong key."""
_SEND_KEY: Final = "Send one of this gateway's keys as `Authorization: Bearer mg_...`."


def admin_only(handler: Handler) -> Handler:
    """The handler behind the admin key; without one configured, every call is refused."""

    async def guarded(request: web.Request) -> web.Response:
        services = request.app[SERVICES]
        given = request.headers.get(ADMIN_HEADER, "")
        if not await is_admin(request, given, services.admin_api_key or "", services.attempts):
            raise Unauthorized(f"{INCORRECT_KEY}: this call needs the admin key, as {ADMIN_HEADER}.")
        return await handler(request)

    return guarded


async def is_admin(request: web.Request, given: str, expected: str, attempts: Attempts) -> bool:
    """Whether what a request gives is the admin key; what is another has failed. Raises `TooManyAttempts`.

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
    """The principal of the request's API key. A suspended account is one too. Raises `Unauthorized`, and
    `TooManyAttempts`."""
    services = request.app[SERVICES]
    try:
        secret = presented_key(request.headers)
    except DifferentKeys as error:
        raise Unauthorized(str(error)) from error
    if secret is None:
        raise Unauthorized(f"{INCORRECT_KEY}: there is none. {_SEND_KEY}")

    async def check() -> Principal | None:
        found = await services.authenticate(secret)
        return found if found is not None and found.usable_key(services.clock()) else None

    known = services.known(secret)
    if known:
        principal = await check()
    else:
        peer, wrong = request.remote or "", known is False
        principal = await services.attempts.attempt(peer, request.headers, check, known_wrong=wrong)
    if principal is None:
        raise Unauthorized(f"{INCORRECT_KEY}: it is wrong, revoked or expired. {_SEND_KEY}")
    return principal


def require_scope(principal: Principal, scope: str) -> None:
    """Raises `InsufficientScope` when the key lacks the scope."""
    if scope not in principal.scopes:
        raise InsufficientScope(f"This API key lacks the scope {scope}.", required_scope=scope)
