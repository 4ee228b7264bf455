"""Tokens of other issuers: which of them are believed, and what they may say.

Two issuers are possible, each with one algorithm: whoever publishes RS256 keys at `base_url`, and whoever shares a
secret for HS256. A token for neither of the audiences is not for Metergate. A token for the internal audience, which is
that of the operator's own staff, may carry an operator's rights; no other one can, whatever it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from billing.identity.subjects import Subject, subject_of
from billing.identity.tokens import ISSUER, BadToken, Claims, Header, refuse_claims, verify

if TYPE_CHECKING:
    from billing.identity.issuers import KeySet

SHARED: Final = "hs256:"
"""What the names of those begin with who share the secret: they can't be taken for an issuer with keys of its own."""
OPERATORS: Final = frozenset({"admin", "operator"})
"""Roles, and of them the scope, that make an operator of whom the internal audience is."""
OPERATOR: Final = "operator"


@dataclass(frozen=True, slots=True)
class ForeignRules:
    """Whose tokens are believed: of `base_url`, without a slash at its end, and of who has `secret`."""

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


@dataclass(frozen=True, slots=True)
class ForeignToken:
    """A believed token. `narrowed` are the scopes that it is limited to, None where it names none."""

    subject: Subject
    claims: Claims
    operator: bool
    narrowed: frozenset[str] | None


class ForeignTokens:
    """Verifies tokens of other issuers. `keys` are those of `base_url`; `clock` is Unix seconds."""

    def __init__(self, rules: ForeignRules, keys: KeySet | None, clock: Callable[[], float]) -> None:
        self._rules, self._keys, self._clock = rules, keys, clock

    async def verify(self, token: str, header: Header, issuer: str | None) -> ForeignToken:
        """Return what a token says that names this issuer. Raises `BadToken`, and `IssuerAway` where its keys can't be
        had."""
        name, claims = await self._signed(token, header, issuer)
        refuse_claims(claims, issuers=(), audiences=self._rules.audiences, now=self._clock())
        internal = self._rules.internal_audience is not None and self._rules.internal_audience in claims.audiences
        named = frozenset(scope for scope in claims.scopes if ":" in scope)  # not openid, profile and the like
        return ForeignToken(
            subject_of(name, claims, trusted=True, let_in=True),
            claims,
            internal and _is_operator(claims),
            named or None,
        )

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
