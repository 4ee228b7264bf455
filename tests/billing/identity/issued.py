"""Tokens as issuers sign them."""

import json
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from jwt.algorithms import RSAAlgorithm

from billing.identity.issuers import ForeignRules, ForeignTokens, IssuerAway, KeySet
from billing.identity.sessions import Sessions
from billing.identity.tokens import SigningKeys, TokenRules

RSA, OTHER_RSA = (generate_private_key(65_537, 2048) for _ in range(2))
SECRET = "a shared secret of 32 bytes or more"
ISSUER = "https://login.example.com"
NO_DATABASE = SimpleNamespace(transaction=None)
# Later than the tests are run: some tokens are of the machine's own time.
NOW = 4_000_000_000
GOOD = {"iss": ISSUER, "aud": "here", "sub": "ann", "iat": NOW, "exp": NOW + 3600, "jti": "1"}


SHARED = {**GOOD, "iss": "other"}


def jwk(key: Any, kid: str | None = "one", **fields: Any) -> dict[str, Any]:
    made = {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "use": "sig", "alg": "RS256", **fields}
    return made if kid is None else {**made, "kid": kid}


@dataclass
class Publisher:
    """An issuer's published keys; counts requests."""

    keys: list[dict[str, Any]]
    asked: int = 0
    away: bool = False

    async def __call__(self, url: str, *, form: Any = None, headers: Any = None) -> bytes:
        assert url == f"{ISSUER}/.well-known/jwks.json"
        self.asked += 1
        if self.away:
            raise IssuerAway("away")
        return json.dumps({"keys": self.keys}).encode()


@dataclass
class Clock:
    at: float = 0.0

    def __call__(self) -> float:
        return self.at


def shown(publisher: Publisher | None = None, clock: Clock | None = None, **rules: Any) -> Sessions:
    """What believes tokens of both issuers, without a database."""
    own = SigningKeys(None, TokenRules(secret="own" * 11), str, time.monotonic)  # type: ignore[arg-type]
    given = {"audience": "here", "internal_audience": "staff", "base_url": ISSUER, "secret": SECRET, **rules}
    keys = KeySet(f"{ISSUER}/.well-known/jwks.json", publisher or Publisher([jwk(RSA)]), clock or Clock())
    return Sessions(NO_DATABASE, own, str, foreign=ForeignTokens(ForeignRules(**given), keys, lambda: NOW))


def rs256(claims: dict[str, Any], key: Any = RSA, **headers: Any) -> str:
    return jwt.encode(claims, key, "RS256", headers={"kid": "one", **headers})


def hs256(claims: dict[str, Any], key: Any = SECRET, **headers: Any) -> str:
    return jwt.encode(claims, key, "HS256", headers=headers)
