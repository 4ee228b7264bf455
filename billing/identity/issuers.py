"""Other issuers: the keys that they publish (RFC 7517), and which of their tokens are believed.

No issuer is asked for its keys more often than once a minute, whatever tokens come: a token of an unknown key id can't
make the gateway ask at will. Keys stay in use while the issuer is away, for a day at most. What a provider of sign-ins
says of itself (OpenID Connect Discovery 1.0) is asked for once for all who begin one at the same time, and not again
before `EARLY_S` where there was no answer.

Tokens of two issuers are believed, each by one algorithm: of whom publishes RS256 keys at `base_url`, and of whoever
shares a secret for HS256. A token for neither of the audiences is not for Metergate. A token for the internal audience,
which is that of the operator's own staff, may carry an operator's rights; no other one can, whatever it says.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Struct

from billing.errors import MetergateError
from billing.identity.tokens import (
    ISSUER,
    OPERATOR,
    BadToken,
    Claims,
    Header,
    Verified,
    refuse_claims,
    subject_of,
    verify,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from billing.identity.providers import SignInProvider

FRESH_S: Final = 900.0
AGAIN_S: Final = 60.0
# How often an issuer is asked of which nothing is known yet.
EARLY_S: Final = 5.0
STALE_S: Final = 86_400.0
MAX_KEYS: Final = 100
MIN_BITS: Final = 2048
# Above, a verification takes too long.
MAX_BITS: Final = 8192

T = TypeVar("T")


class IssuerAway(MetergateError):
    """Another issuer was not reached, or did not answer as it should."""

    kind = "unavailable"


class IssuerRefused(IssuerAway):
    """Another issuer refused what was asked: a status of 4xx."""


class Ask(Protocol):
    """Asks another issuer over HTTP: a GET, or a POST of a form. The answer's JSON has a status of 200, comes within a
    time and is not larger than a bound; redirects are not followed. Raises `IssuerAway` and `IssuerRefused`."""

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


def parse_keys(body: bytes) -> dict[str | None, RSAPublicKey]:
    """Return the RS256 keys of a set by their ids; a single one also without. Others are left out. Raises
    `IssuerAway` for what is no set."""
    from billing.identity.signatures import public_key

    try:
        given = msgspec.json.decode(body, type=_JwkSet).keys[:MAX_KEYS]
    except (ValueError, RecursionError) as error:
        raise IssuerAway("The issuer's keys can't be read.") from error
    keys: dict[str | None, RSAPublicKey] = {}
    for each in given:
        try:
            jwk = msgspec.convert(each, _Jwk)
            if (jwk.kty, jwk.use, jwk.alg) != ("RSA", "sig", "RS256"):
                continue
            key = public_key({"kty": "RSA", "n": jwk.n, "e": jwk.e})
        except ValueError:
            continue
        if MIN_BITS <= key.key_size <= MAX_BITS:
            keys[jwk.kid] = key
    if len(keys) == 1:
        keys[None] = next(iter(keys.values()))
    elif None in keys:
        del keys[None]
    return keys


async def read_answer(ask: Ask, kind: type[T], url: str, **options: Any) -> T:
    """Return what an issuer answers, as this shape. Raises `IssuerAway`."""
    body = await ask(url, **options)
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        raise IssuerAway("The issuer's answer can't be read.") from error


DISCOVERED_S: Final = 3600.0


class Metadata(Struct, frozen=True):
    """What is read of a provider's metadata (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str = ""
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


@dataclass(slots=True)
class _Known:
    """What is known of one provider, and when it was read and asked for last."""

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    found: tuple[Metadata, KeySet] | None = None
    read_at: float = float("-inf")
    asked_at: float = float("-inf")


class Discovery:
    """Finds out where providers' endpoints and keys are. `clock` is monotonic seconds."""

    def __init__(self, ask: Ask, clock: Callable[[], float]) -> None:
        self.ask, self._clock = ask, clock
        self._known: dict[str, _Known] = {}

    async def find(self, name: str, provider: SignInProvider) -> tuple[Metadata, KeySet]:
        """Return a provider's metadata, and its keys. Raises `IssuerAway`."""
        known = self._known.setdefault(name, _Known())
        if known.found is not None and self._clock() - known.read_at < DISCOVERED_S:
            return known.found
        async with known.asking:
            await self._renew(known, provider)
        if known.found is None or self._clock() - known.read_at >= STALE_S:
            raise IssuerAway("This provider of sign-ins can't be reached now; try again.")
        return known.found

    async def _renew(self, known: _Known, provider: SignInProvider) -> None:
        """Ask a provider, unless somebody has done so a moment ago."""
        now = self._clock()
        if now - known.read_at < DISCOVERED_S or now - known.asked_at < EARLY_S:
            return
        known.asked_at = now
        try:
            metadata = await self._asked(provider)
        except IssuerAway:
            if known.found is None:
                raise
            return
        known.found, known.read_at = (metadata, KeySet(metadata.jwks_uri, self.ask, self._clock)), self._clock()

    async def _asked(self, provider: SignInProvider) -> Metadata:
        if provider.kind == "github":
            oauth, post = f"{provider.issuer}/login/oauth", ("client_secret_post",)
            urls = provider.issuer, f"{oauth}/authorize", f"{oauth}/access_token"
            return Metadata(*urls, token_endpoint_auth_methods_supported=post)
        metadata = await read_answer(self.ask, Metadata, f"{provider.issuer}/.well-known/openid-configuration")
        if metadata.issuer.rstrip("/") != provider.issuer:
            raise IssuerAway("The provider claims to be another issuer than the configured one.")
        return metadata


# What the names of those begin with who share the secret: they can't be taken for an issuer with keys of its own.
SHARED: Final = "hs256:"
# Roles that make an operator of whom the internal audience is.
OPERATORS: Final = frozenset({"admin", "operator"})


@dataclass(frozen=True, slots=True)
class ForeignRules:
    """The issuers of tokens that are accepted: `base_url`, without a slash at its end, and the one that shares
    `secret`."""

    audience: str
    internal_audience: str | None = None
    base_url: str | None = None
    secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.audience or ISSUER in self.audiences:
            raise ValueError(f"an audience is needed, and another one than {ISSUER}, which is that of the own tokens")

    @property
    def audiences(self) -> frozenset[str]:
        """Return whom tokens may be for."""
        return frozenset({self.audience, self.internal_audience or self.audience})


class ForeignTokens:
    """Verifies tokens of other issuers. `keys` are those of `base_url`; `clock` is Unix seconds."""

    def __init__(self, rules: ForeignRules, keys: KeySet | None, clock: Callable[[], float]) -> None:
        self._rules, self._keys, self._clock = rules, keys, clock

    async def verify(self, token: str, header: Header, issuer: str | None) -> Verified:
        """Return the claims of a token of this issuer, and whom it signed in. Raises `BadToken`, and `IssuerAway` if
        the issuer's keys can't be read."""
        name, claims = await self._signed(token, header, issuer)
        refuse_claims(claims, issuers=(), audiences=self._rules.audiences, now=self._clock())
        internal = self._rules.internal_audience is not None and self._rules.internal_audience in claims.audiences
        named = frozenset(scope for scope in claims.scopes if ":" in scope)  # not openid, profile and the like
        subject = subject_of(name, claims, trusted=True, let_in=True)
        return Verified(claims, named or None, subject=subject, operator=internal and _is_operator(claims))

    async def _signed(self, token: str, header: Header, issuer: str | None) -> tuple[str, Claims]:
        """Return the issuer's name and the claims that it has signed; the algorithm follows from the issuer alone."""
        base_url = self._rules.base_url
        if self._keys is not None and base_url is not None and issuer in (base_url, f"{base_url}/"):
            key = await self._keys.key(header.kid)
            if key is None:
                raise BadToken
            return base_url, verify(token, key, "RS256", Claims)
        if self._rules.secret is None:
            raise BadToken
        return f"{SHARED}{issuer or ''}", verify(token, self._rules.secret, "HS256", Claims)


def _is_operator(claims: Claims) -> bool:
    roles = claims.role if isinstance(claims.role, list) else [claims.role]
    return OPERATOR in claims.scopes or any(isinstance(role, str) and role in OPERATORS for role in roles)
