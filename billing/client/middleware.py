"""An aiohttp middleware that finds whose Metergate key a request shows.

It decides nothing: a request without a key, or with a wrong one, goes on without a principal, and the handler asks for
what it needs. A key is looked up behind the service's own key, so that a wrong one is no attempt of this service's
address. What is known of a key is kept for at most a second under its SHA-256, so that a revoked one stops; those who
show one key at the same time wait for one look-up. Where Metergate can't be asked the answer is 503: nobody is told
that a right key is wrong.

With `METERGATE_DEVELOPMENT=1` alone, `X-User-Id` or `?user_id=` stand for a key, whoever says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from billing.client.errors import ClientError, Retries
from billing.keys.secrets import DifferentKeys, presented_key, secret_digest, well_formed
from billing.schemas.base import error_body
from billing.schemas.service import KeyHolder

if TYPE_CHECKING:
    from billing.client.service import ServiceCalls
    from billing.schemas.service import KeyCheckShape

logger = logging.getLogger(__name__)

# Whose key a request shows; not there where it shows none that is right.
PRINCIPAL: Final = web.RequestKey("metergate_principal", KeyHolder)
DEVELOPMENT: Final = "METERGATE_DEVELOPMENT"
USER_HEADER: Final = "X-User-Id"
USER_PARAMETER: Final = "user_id"
# How long what is known of a key is believed: with the moment that a change takes to reach the gateways this is below a
# second.
KEPT_S: Final = 0.5
LONGEST_KEPT_S: Final = 1.0
KEPT_KEYS: Final = 10_000
# Keys that are looked up at the same time; above that the answer is 503.
LOOKED_UP_AT_ONCE: Final = 64
# Somebody waits for the answer.
LOOK_UPS: Final = Retries(attempts=2, total_s=5.0)
RETRY_AFTER_S: Final = 1

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Development:
    """The account, and the scopes, of requests that name a user instead of showing a key."""

    account_id: str
    scopes: tuple[str, ...] = ()

    def holder(self, user_id: str) -> KeyHolder:
        """Return what stands for the key of a user."""
        return KeyHolder(
            key_id="development",
            key_name="development",
            account_id=self.account_id,
            account_status="active",
            plan="development",
            user_id=user_id,
            scopes=list(self.scopes),
            models=None,
            tags={},
            expires_at=None,
        )


class KeyLookup:
    """Finds the holders of keys, and caches them for `kept_s`, of at most `kept_keys` keys."""

    def __init__(self, client: ServiceCalls, kept_s: float = KEPT_S, kept_keys: int = KEPT_KEYS) -> None:
        if not 0 <= kept_s <= LONGEST_KEPT_S or kept_keys < 1:
            raise ValueError(f"kept_s is 0 to {LONGEST_KEPT_S:g}, and kept_keys above zero")
        self._client = client
        self._kept_s = kept_s
        self._kept_keys = kept_keys
        self._kept: OrderedDict[bytes, tuple[float, KeyHolder | None]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[KeyHolder | None]] = {}

    async def find(self, secret: str) -> KeyHolder | None:
        """Return whose key this is, None for one that is wrong, revoked or expired. Raises `ClientError`, and
        `TimeoutError` where too many are looked up."""
        if not well_formed(secret):
            return None
        digest, now = secret_digest(secret), asyncio.get_running_loop().time()
        known = self._kept.get(digest)
        if known is not None and now < known[0]:
            return known[1]
        asked = self._asked.get(digest)
        if asked is None:
            if len(self._asked) >= LOOKED_UP_AT_ONCE:
                raise TimeoutError
            asked = self._asked[digest] = asyncio.create_task(self._look_up(digest, secret, now))
            asked.add_done_callback(lambda task: self._answered(digest, task))
        return await asyncio.shield(asked)

    async def _look_up(self, digest: bytes, secret: str, now: float) -> KeyHolder | None:
        found: KeyCheckShape = await self._client.check_key(secret, retries=LOOK_UPS)
        self._kept[digest] = now + self._kept_s, found.holder  # it was so when it was asked, at the earliest
        self._kept.move_to_end(digest)
        if len(self._kept) > self._kept_keys:
            self._kept.popitem(last=False)
        return found.holder

    def _answered(self, digest: bytes, task: asyncio.Task[KeyHolder | None]) -> None:
        del self._asked[digest]
        if not task.cancelled():
            task.exception()  # retrieved here: there may be no caller any more


def metergate_auth(
    client: ServiceCalls,
    *,
    kept_s: float = KEPT_S,
    kept_keys: int = KEPT_KEYS,
    development: Development | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Middleware:
    """Return the middleware. `client` has a service key; `development` counts where METERGATE_DEVELOPMENT is 1 in the
    environment, and nowhere else."""
    lookup = KeyLookup(client, kept_s, kept_keys)
    stands_in = development if environ.get(DEVELOPMENT) == "1" else None
    if stands_in is not None:
        logger.warning("%s=1: %s and ?%s= stand for a key", DEVELOPMENT, USER_HEADER, USER_PARAMETER)

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            secret = presented_key(request.headers)
        except DifferentKeys:
            secret = None
        if secret is not None:
            try:
                found = await lookup.find(secret)
            except (ClientError, TimeoutError) as error:
                logger.warning("a key can't be looked up: %s", error or "too many are")
                return _unavailable()
            if found is not None:
                request[PRINCIPAL] = found
        elif stands_in is not None:
            user_id = request.headers.get(USER_HEADER) or request.query.get(USER_PARAMETER)
            if user_id:
                request[PRINCIPAL] = stands_in.holder(user_id)
        return await handler(request)

    return authenticate


def require_principal(request: web.Request, scope: str | None = None) -> KeyHolder:
    """Return whose key a request shows. Raises `web.HTTPUnauthorized` where there is none that is right, and
    `web.HTTPForbidden` where it lacks the scope."""
    found: KeyHolder | None = request.get(PRINCIPAL)
    if found is None:
        message = "Incorrect API key provided: show one as `Authorization: Bearer mg_...`."
        body = error_body("invalid_api_key", message, type_="invalid_request_error")
        raise web.HTTPUnauthorized(text=body.decode(), content_type="application/json")
    if scope is not None and scope not in found.scopes:
        made = f"`metergate keys create NAME --scope {scope}`"
        message = f"This API key lacks the scope {scope}. A key that has it: {made}."
        body = error_body("insufficient_scope", message, type_="invalid_request_error", required_scope=scope)
        raise web.HTTPForbidden(text=body.decode(), content_type="application/json")
    return found


def _unavailable() -> web.Response:
    body = error_body(
        "temporarily_unavailable", "This key can't be looked up now: try again in a moment.", type_="server_error"
    )
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return web.Response(status=503, body=body, content_type="application/json", headers=headers)
