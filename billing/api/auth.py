"""Who calls: somebody with an API key, a person with a token, another service, or the operator with the admin key.

This file owns the rule that presented admin and service keys are compared in constant time, that wrong keys are
counted, and that no refused address learns whether an admin key that could be guessed is right.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from billing.api.attempts import ADMINS, SERVICE_KEYS
from billing.api.requests import BadRequest, InsufficientScope, NotFound, Unauthorized
from billing.api.services import SERVICES
from billing.errors import INCORRECT_KEY
from billing.keys.secrets import bearer_of, made_at_random, presented_key, same_secret, shown_prefix
from billing.permissions import BILLING_READ as BILLING_READ
from billing.principals import Caller

if TYPE_CHECKING:
    from aiohttp import web

    from billing.api.attempts import Attempts
    from billing.api.services import Services
    from billing.principals import Principal

ADMIN_HEADER: Final = "X-Admin-Key"
SERVICE_HEADER: Final = "X-API-Key"
SERVICE_NAME_HEADER: Final = "X-Service-Name"
ORG_HEADER: Final = "X-Organization-Id"
# What an organization's id in a path is called: whoever does not belong to it does not find the path.
ORG_IN_PATH: Final = "org_id"
_SIGN_IN: Final = "Sign in: `metergate auth login`."
_SERVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_ORG: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# The form of a JSON Web Token (RFC 7519): no API key has a dot.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
MAX_TOKEN: Final = 8192


async def require_admin(
    request: web.Request, expected: str, attempts: Attempts, *, or_bearer: bool = False, hint: str = ""
) -> None:
    """Reject a request without the admin key, in `X-Admin-Key` or, with `or_bearer`, as a bearer; with an empty
    `expected` every request. A wrong one is counted; `hint` is added to the message.

    Raises `Unauthorized` and `TooManyAttempts`.
    """
    given = request.headers.get(ADMIN_HEADER, "") or (bearer_of(request.headers) if or_bearer else "")
    if not await _is_secret(request, given, expected, attempts, ADMINS):
        how = f"in {ADMIN_HEADER} or as Authorization: Bearer" if or_bearer else f"as {ADMIN_HEADER}"
        raise Unauthorized(f"{INCORRECT_KEY}: this call needs the admin key, {how}. {hint}".rstrip())


async def _is_secret(request: web.Request, given: str, expected: str, attempts: Attempts, kind: str) -> bool:
    """Return whether this is the admin or service key; what is another has failed. Raises `TooManyAttempts`.

    A key with 256 random bits passes also where the address has shown too many wrong ones: to be told so of each guess
    helps nobody to find it. Of any other key a refused address is not told whether it is right, once too many of those
    that begin like it were wrong.
    """
    if not expected or not given:
        return False
    if made_at_random(expected) and same_secret(given, expected):
        return True
    peer = request.remote or ""
    prefix = shown_prefix(expected) if same_secret(shown_prefix(given), shown_prefix(expected)) else ""
    attempts.refuse_blocked(peer, request.headers, kind, prefix)
    if same_secret(given, expected):
        return True
    await attempts.failed(peer, request.headers, kind, prefix)
    return False


async def key_caller(request: web.Request) -> Caller:
    """Return whose API key the request has, which may be of a suspended account. Raises `Unauthorized`,
    `DifferentKeys` and `TooManyAttempts`."""
    return _key_caller(await _principal(request))


def _key_caller(principal: Principal) -> Caller:
    return Caller(
        "key",
        principal.key_id,
        account_id=principal.account_id,
        user_id=principal.user_id,
        scopes=principal.scopes,
        principal=principal,
    )


async def bearer_caller(request: web.Request, services: Services, secret: str) -> Caller:
    """Return whose API key or token this is, which came otherwise than in a header. Raises as `any_caller`."""
    if _TOKEN.fullmatch(secret) is None:
        return _key_caller(await _checked(request, services, secret))
    found = await services.person(secret, None)
    if found is None:
        raise Unauthorized(f"This token is wrong, expired or revoked. {_SIGN_IN}")
    return found


async def _principal(request: web.Request) -> Principal:
    secret = presented_key(request.headers)
    if secret is None:
        raise Unauthorized(f"{INCORRECT_KEY}: there is none. {_send_key(request.app[SERVICES])}")
    return await _checked(request, request.app[SERVICES], secret)


def _send_key(services: Services) -> str:
    made = "" if services.keys_url is None else f" Keys are made at {services.keys_url}."
    return f"Send one of this gateway's keys as `Authorization: Bearer mg_...`.{made}"


async def _checked(request: web.Request, services: Services, secret: str) -> Principal:
    async def check() -> Principal | None:
        found = await services.authenticate(secret)
        return found if found is not None and found.usable_key(services.clock()) else None

    peer, known = request.remote or "", services.known(secret)
    principal = await services.attempts.attempt(peer, request.headers, check, known=known, secret=secret)
    if principal is None:
        raise Unauthorized(f"{INCORRECT_KEY}: it is wrong, revoked or expired. {_send_key(services)}")
    return principal


def shown_token(request: web.Request) -> str | None:
    """Return the JSON Web Token that a request shows as its bearer, None where there is none or something else."""
    token = bearer_of(request.headers)
    return token if len(token) <= MAX_TOKEN and _TOKEN.fullmatch(token) else None


async def person_caller(request: web.Request, services: Services) -> Caller:
    """Return whose token the request has, in the organization that the path, `X-Organization-Id` or else the token
    names. Raises `Unauthorized`, `BadRequest` and what reading the person raises."""
    token = shown_token(request)
    if token is None:
        raise Unauthorized(f"This call needs the token of a person, as `Authorization: Bearer`. {_SIGN_IN}")
    in_path = request.match_info.get(ORG_IN_PATH)
    org_id = request.headers.get(ORG_HEADER) if in_path is None else in_path
    if org_id is not None and _ORG.fullmatch(org_id) is None:
        if in_path is None:
            raise BadRequest(f"{ORG_HEADER} is the id of an organization.", ORG_HEADER)
        org_id = None  # `require_organization` does not find it, once it is known who asks
    found = await services.person(token, org_id)
    if found is None:
        raise Unauthorized(f"This token is wrong, expired or revoked. {_SIGN_IN}")
    return found


async def any_caller(request: web.Request, services: Services) -> Caller:
    """Return whose API key or token the request has. Raises as `key_caller` and `person_caller`."""
    return await (key_caller(request) if shown_token(request) is None else person_caller(request, services))


async def service_caller(request: web.Request) -> Caller:
    """Return which service calls: `X-API-Key` is the service key, `X-Service-Name` says who has it. A wrong key is
    counted. Raises `Unauthorized`, `BadRequest` and `TooManyAttempts`."""
    services = request.app[SERVICES]
    shown, expected = request.headers.get(SERVICE_HEADER, ""), services.service_api_key or ""
    if not await _is_secret(request, shown, expected, services.attempts, SERVICE_KEYS):
        raise Unauthorized(f"{INCORRECT_KEY}: this call needs the service key, as {SERVICE_HEADER}.")
    name = request.headers.get(SERVICE_NAME_HEADER, "")
    if _SERVICE.fullmatch(name) is None:
        raise BadRequest(
            f"{SERVICE_NAME_HEADER} names the service that calls, in 1 to 64 letters, digits, `_`, `.` and `-`.",
            SERVICE_NAME_HEADER,
        )
    return Caller("service", name)


async def require_organization(request: web.Request, caller: Caller) -> None:
    """Reject who does not belong to the organization of the path: a person who is no member, the API key of another
    account. Raises `NotFound`."""
    org_id = request.match_info[ORG_IN_PATH]
    if caller.kind == "person":
        own = caller.org_id if caller.role is not None else None
    else:
        found = await request.app[SERVICES].organizations.of_account(caller.account_id or "")
        own = None if found is None else found.id
    if own != org_id:
        raise NotFound(f"There is no organization {org_id!r}.")


def require_whole(caller: Caller) -> None:
    """Reject a token that was narrowed. Raises `InsufficientScope`."""
    if not caller.whole:
        raise InsufficientScope("This needs a token with all of your scopes: sign in, `metergate auth login`.")


def require_scope(caller: Caller, scope: str) -> None:
    """Reject a caller that lacks the scope. Raises `InsufficientScope`."""
    if scope in caller.scopes:
        return
    if caller.kind == "key":
        made = f"`metergate keys create NAME --scope {scope}`"
        message = f"This API key lacks the scope {scope}. A key that has it: {made}."
    elif caller.role is None:
        message = f"This needs the scope {scope} in an organization: name yours in {ORG_HEADER}."
    elif caller.hint:
        message = f"This needs the scope {scope}. {caller.hint}"
    else:
        message = (
            f"This needs the scope {scope}, which your token or your role ({caller.role}) lacks. Where the role has "
            f'it: `metergate auth token --scope "{scope}"`.'
        )
    raise InsufficientScope(message, required_scope=scope)
