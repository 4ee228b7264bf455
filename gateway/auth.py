"""Authentication of a request's key: `billing` finds the principal; refusals are those of the proxy and the
endpoints."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from billing.database.connection import DatabaseError
from billing.errors import MetergateError
from billing.holds.cache import PrincipalCache, recognised
from billing.keys.secrets import DifferentKeys, presented_key, secret_digest, well_formed
from gateway.dialects.declared import key_headers
from gateway.server import refusals
from gateway.server.refusals import Refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from multidict import MultiMapping

    from billing.api.attempts import Attempts
    from billing.principals import Principal
    from gateway.dialects.base import Dialect
    from gateway.server.exchange import Exchange

NOT_SHOWN: Final[tuple[str, ...]] = ()


@contextmanager
def attempts_refused() -> Iterator[None]:
    """Raise `Refuse` where too many wrong keys have been shown."""
    try:
        yield
    except MetergateError as error:
        if error.kind != "too_many":
            raise
        raise Refuse(refusals.too_many_attempts(error)) from error


def key_of(headers: MultiMapping[str], path: str, dialect: Dialect) -> str | None:
    """Return the API key of a request to a path with its query string, also where the API that it belongs to has one.
    Raises `Refuse` where there are two that differ."""
    in_query = NOT_SHOWN
    declared = dialect.declared
    if declared.key_parameter is not None and "?" in path:
        query = parse_qsl(path.partition("?")[2])
        in_query = tuple(value for name, value in query if name == declared.key_parameter)
    try:
        return presented_key(headers, key_headers(declared), in_query)
    except DifferentKeys as error:
        raise Refuse(refusals.different_keys(error)) from error


def secret_of(exchange: Exchange) -> str | None:
    """Return the API key of a metered request. Raises `Refuse` where there are two that differ."""
    return key_of(exchange.all_headers(), exchange.path, exchange.match.dialect)


class Authenticator:
    """Finds whose key a request shows. `lookup_wait_s` bounds how long a key that is not known is looked up, with those
    before it; `clock` is in Unix seconds; `keys_url` is the page where keys are made."""

    def __init__(
        self,
        cache: PrincipalCache,
        attempts: Attempts,
        lookup_wait_s: float,
        clock: Callable[[], float] = time.time,
        keys_url: str | None = None,
    ) -> None:
        self._cache = cache
        self._attempts = attempts
        self._lookup_wait_s = lookup_wait_s
        self._keys_url = keys_url
        self.clock = clock

    def cached(self, secret: str | None) -> Principal | None:
        """Return the principal of a key where it is known and usable."""
        return self.known(secret_digest(secret)) if secret is not None else None

    def known(self, digest: bytes) -> Principal | None:
        """Return the same by the digest of a key."""
        principal = self._cache.peek(digest)
        if principal is None or not principal.usable_key(self.clock()):
            return None
        self._cache.used[principal.key_id] = None
        return principal

    async def admit(self, secret: str | None, peer: str, headers: MultiMapping[str]) -> Principal:
        """Return as `authenticate`, for a client at `peer`: a key that is not known is an attempt. Raises `Refuse`."""
        if secret is None:
            raise Refuse(refusals.invalid_key(self._keys_url))
        known = recognised(self._cache, secret)
        try:  # a known key is served from memory where the look-up, which the cache bounds, comes to nothing
            async with asyncio.timeout(None if known else self._lookup_wait_s):
                with attempts_refused():
                    principal = await self._attempts.attempt(
                        peer, headers, partial(self._find, secret), known=known, secret=secret
                    )
        except TimeoutError as error:
            raise Refuse(refusals.unavailable()) from error
        return self._valid(principal)

    async def authenticate(self, secret: str | None, *, fresh: bool = False) -> Principal:
        """Return the principal of a key, read anew with `fresh`. Raises `Refuse`."""
        return self._valid(None if secret is None else await self._find(secret, fresh=fresh))

    async def _find(self, secret: str, *, fresh: bool = False) -> Principal | None:
        """Return the principal of a key, None for one that is not usable. Raises `Refuse` where nobody can tell."""
        principal = None if fresh else self.cached(secret)
        if principal is not None or not well_formed(secret):
            return principal
        digest = secret_digest(secret)
        try:
            principal = await (self._cache.reload(digest) if fresh else self._cache.get(digest))
        except DatabaseError as error:
            raise Refuse(refusals.unavailable()) from error
        if principal is None or not principal.usable_key(self.clock()):
            return None
        self._cache.used[principal.key_id] = None
        return principal

    def _valid(self, principal: Principal | None) -> Principal:
        """Return the principal that was found. Raises `Refuse` where there is none."""
        if principal is None:
            raise Refuse(refusals.invalid_key(self._keys_url))
        return principal
