"""What other issuers publish: their signing keys (RFC 7517), kept for a while, and fetched anew with restraint.

Nothing here is asked more often than once a minute, whatever tokens come: a token of an unknown key id can't make the
gateway ask its issuer at will. Keys stay in use while the issuer is away, for a day at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm
from msgspec import Struct

from billing.errors import MetergateError

FRESH_S: Final = 900.0
AGAIN_S: Final = 60.0
EARLY_S: Final = 5.0
"""How often an issuer is asked of which nothing is known yet."""
STALE_S: Final = 86_400.0
MAX_KEYS: Final = 100
MIN_BITS: Final = 2048
MAX_BITS: Final = 8192
"""Above, a verification takes too long."""

T = TypeVar("T")


class IssuerAway(MetergateError):
    """Another issuer was not reached, or did not answer as it should."""

    kind = "unavailable"


class Ask(Protocol):
    """Asks another issuer over HTTP: a GET, or a POST of a form. The answer's JSON has a status of 200, comes within a
    time and is not larger than a bound; redirects are not followed. Raises `IssuerAway`."""

    async def __call__(
        self, url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes: ...


class _Jwk(Struct, frozen=True):
    """What is read of a published key: nothing that leads elsewhere, such as `x5u`."""

    kty: str
    n: str = ""
    e: str = ""
    kid: str | None = None
    use: str = "sig"
    alg: str = "RS256"


class _JwkSet(Struct, frozen=True):
    keys: list[Any]


class KeySet:
    """The RS256 keys that are published at `url`. `clock` is monotonic seconds."""

    def __init__(self, url: str, ask: Ask, clock: Callable[[], float]) -> None:
        self._url, self._ask, self._clock = url, ask, clock
        self._keys: dict[str | None, RSAPublicKey] = {}
        self._read_at: float | None = None
        self._asked_at: float | None = None
        self._asking = asyncio.Lock()

    async def key(self, kid: str | None) -> RSAPublicKey | None:
        """Return the key of this id, or without one the only key that there is; None for another one. Raises
        `IssuerAway` where there has been no answer for a day, or never."""
        if self._age() >= FRESH_S or kid not in self._keys:
            await self._refresh(kid)
        if self._age() >= STALE_S:
            raise IssuerAway("Who issued this token can't be asked for its keys now; try again.")
        return self._keys.get(kid)

    def _age(self) -> float:
        return float("inf") if self._read_at is None else self._clock() - self._read_at

    async def _refresh(self, kid: str | None) -> None:
        """Ask for the keys, unless that was done a moment ago; who comes meanwhile waits for the answer."""
        async with self._asking:
            wait_s = EARLY_S if self._read_at is None else AGAIN_S
            if self._asked_at is not None and self._clock() - self._asked_at < wait_s:
                return
            self._asked_at = self._clock()
            try:
                self._keys = parse_keys(await self._ask(self._url))
            except IssuerAway:
                if self._age() >= STALE_S:
                    raise
            else:
                self._read_at = self._clock()


def parse_keys(said: bytes) -> dict[str | None, RSAPublicKey]:
    """Return the RS256 keys of a set by their ids; a single one also without. Others are left out. Raises
    `IssuerAway` for what is no set."""
    try:
        given = msgspec.json.decode(said, type=_JwkSet).keys[:MAX_KEYS]
    except (ValueError, RecursionError) as error:
        raise IssuerAway("The issuer's keys can't be read.") from error
    keys: dict[str | None, RSAPublicKey] = {}
    for each in given:
        try:
            jwk = msgspec.convert(each, _Jwk)
            if (jwk.kty, jwk.use, jwk.alg) != ("RSA", "sig", "RS256"):
                continue
            key = RSAAlgorithm.from_jwk({"kty": "RSA", "n": jwk.n, "e": jwk.e})
        except (jwt.PyJWTError, ValueError):
            continue
        if isinstance(key, RSAPublicKey) and MIN_BITS <= key.key_size <= MAX_BITS:
            keys[jwk.kid] = key
    if len(keys) == 1:
        keys[None] = next(iter(keys.values()))
    elif None in keys:
        del keys[None]
    return keys


async def read_answer(ask: Ask, kind: type[T], url: str, **options: Any) -> T:
    """Return what an issuer answers, as this shape. Raises `IssuerAway`."""
    said = await ask(url, **options)
    try:
        return msgspec.json.decode(said, type=kind)
    except (ValueError, RecursionError) as error:
        raise IssuerAway("The issuer's answer can't be read.") from error
