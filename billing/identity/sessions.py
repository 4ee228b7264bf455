"""Sessions: a sign-in, the tokens that it is carried on by, and who shows one.

An access token is a JWT, a refresh token 256 random bits, of which the digest is stored. This file owns that ending a
session, revoking a token, disabling a user or changing a role is effective in the next request on every gateway: a
token's signature says whose it is, and one statement says what that is worth now.

A refresh token is good once. For `grace_s` after that it gives the same successor again, because the answer may have
been lost, or two tabs may have asked at once; shown later, somebody has a copy, and the session ends (RFC 9700,
section 4.14.2).
The successor is the HMAC of a stored salt by the old token, so that it is the same for all who ask and stored nowhere.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from billing import audit
from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.identity.callers import Caller
from billing.identity.permissions import allowed
from billing.identity.tokens import ISSUER, BadToken, Claims, peek

if TYPE_CHECKING:
    from billing.identity.signing_keys import SigningKeys

_query = queries("billing.identity")
ID_PREFIX: Final = "ses_"
REFRESH_PREFIX: Final = "mgr_"
"""What a refresh token begins with, so that scanners of leaks can tell it."""
SECRET_BYTES: Final = 32
MAX_USER_AGENT: Final = 400
OPERATOR: Final = "operator"
"""The scope that keeps an operator's rights in a token that is narrowed to some scopes."""
PENDING: Final = "Your registration is not complete: verify your address, or wait until an operator has let you in."
SECOND_FACTOR: Final = "Operators need a second factor: add one with POST /api/auth/totp."


class SignInRefused(MetergateError):
    """A user who is not there, or disabled, can't sign in."""

    kind = "unauthorized"


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How long tokens live, in seconds: `grace_s` is for how long a refresh token that was used is answered again. A
    user has at most so many sessions; those that were used last stay."""

    access_s: int = 86_400
    refresh_s: int = 30 * 86_400
    grace_s: float = 10.0
    sessions: int = 100

    def __post_init__(self) -> None:
        if min(self.access_s, self.refresh_s, self.sessions) < 1 or self.grace_s < 0:
            raise ValueError("access_s, refresh_s and sessions must be above zero, grace_s not below")


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token and what it may do now, as scopes."""

    access_token: str = field(repr=False)
    expires_in_s: int
    session_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class TokenPair(AccessToken):
    """What a client keeps of a sign-in."""

    refresh_token: str = field(repr=False)


class Sessions:
    """Starts, continues and ends sessions, and says who shows a token. Methods raise `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        keys: SigningKeys,
        rules: TokenRules,
        new_id: Callable[[], str],
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`random` makes so many random bytes."""
        self._database, self._keys, self._rules = database, keys, rules
        self._new_id, self._random = new_id, random

    async def start(
        self,
        connection: Connection,
        user_id: str,
        *,
        org_id: str | None = None,
        scopes: Iterable[str] | None = None,
        address: str | None,
        user_agent: str | None,
    ) -> TokenPair:
        """Start a session of a user, whose identity the caller has checked, in the caller's transaction, which locks
        the user's row. Its tokens are about this organization, else the first one, and no wider than `scopes`. Raises
        `SignInRefused`."""
        refresh_token = _refresh_token(self._random(SECRET_BYTES))
        narrowed = None if scopes is None else sorted(set(scopes))
        row = await connection.fetchrow(
            _query("sessions_start"),
            ID_PREFIX + self._new_id(),
            user_id,
            org_id,
            narrowed,
            address,
            user_agent and user_agent[:MAX_USER_AGENT],
            _digest(refresh_token),
            self._rules.refresh_s,
        )
        if row is None:
            raise SignInRefused("This user can't sign in: ask an operator.")
        await connection.execute(_query("sessions_bound"), user_id, self._rules.sessions)
        return _paired(await self._access(row), refresh_token)

    async def refresh(self, refresh_token: str, actor: audit.Actor) -> TokenPair | None:
        """Return the successor of a refresh token with a new access token; None for one that is not valid, or was used
        before. Of the latter the session ends, and `actor`, whose address and request are known, is in the audit
        log."""
        digest = _digest(refresh_token)
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("refresh_find"), digest, self._rules.grace_s)
            if row is None or not row["valid"]:
                return None
            if row["reused"]:
                reason = "a refresh token was used twice"
                await self.end(connection, row["session_id"], reason, actor=actor)
                return None
            salt = row["salt"] or self._random(SECRET_BYTES)
            successor = _successor(refresh_token, salt)
            if row["salt"] is None:
                await connection.execute(
                    _query("refresh_rotate"), digest, _digest(successor), salt, self._rules.refresh_s
                )
            said = await connection.fetchrow(_query("refresh_claims"), row["session_id"], None)
        return None if said is None else _paired(await self._access(said), successor)

    async def narrow(self, caller: Caller, scopes: frozenset[str] | None, org_id: str | None) -> AccessToken | None:
        """Return another access token of the caller's session, for this organization, else theirs, and these of the
        caller's scopes; None where the session has ended or the caller is no member there."""
        wanted = org_id or caller.org_id
        row = await self._database.row(_query("refresh_claims"), caller.session_id, wanted)
        if row is None or (wanted is not None and row["org_id"] is None):
            return None
        return await self._access(row, scopes)

    async def _access(self, row: Row, narrowed: frozenset[str] | None = None) -> AccessToken:
        """Return a new access token that says what a row says."""
        of_session = None if row["scopes"] is None else frozenset(row["scopes"])
        limits = [each for each in (of_session, narrowed) if each is not None]
        limit = frozenset.intersection(*limits) if limits else None
        scopes, issued = allowed(row["role"], limit), int(row["issued_at"])
        expires = min(issued + self._rules.access_s, int(row["ends_at"]))
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": ISSUER,
            "sub": row["user_id"],
            "jti": self._new_id(),
            "iat": issued,
            "exp": expires,
            "ses": row["session_id"],
            "org_id": row["org_id"],
            "role": row["role"],
            "email": row["email"],
            "scope": " ".join(sorted(scopes if limit is None else limit)),
        }
        if limit is not None:
            claims["narrow"] = True
        return AccessToken(await self._keys.sign(claims), expires - issued, row["session_id"], scopes)

    async def caller(self, token: str, org_id: str | None) -> Caller | None:
        """Return who shows an access token, as what they are now in the organization of this id, else the token's, else
        their first one; None for a token that is not valid, or not any more."""
        try:
            header, issuer = peek(token)
            if issuer != ISSUER:
                return None
            claims = await self._keys.verify(token, header.kid)
        except BadToken:
            return None
        if claims.ses is None or claims.iat is None or ISSUER not in claims.audiences:
            return None
        wanted = org_id or (claims.org_id if isinstance(claims.org_id, str) else None)
        row = await self._database.row(
            _query("sessions_caller"),
            *(claims.sub, None, None, wanted, claims.ses, claims.jti, claims.iat, claims.exp, header.kid),
        )
        return None if row is None else _caller(row, claims, claims.scopes if claims.narrow is True else None)

    async def end(
        self, connection: Connection, session_id: str, reason: str, *, actor: audit.Actor = audit.SYSTEM
    ) -> bool:
        """End a session and all of its tokens, in the caller's transaction. Returns whether it had not ended yet."""
        user_id = await connection.fetchval(_query("sessions_end"), session_id, reason)
        if user_id is None:
            return False
        await audit.record(connection, actor, "session.end", session_id, None, {"reason": reason}, user_id=user_id)
        return True

    async def end_all(
        self,
        connection: Connection,
        user_id: str,
        reason: str,
        *,
        but: str | None = None,
        actor: audit.Actor = audit.SYSTEM,
    ) -> None:
        """End all sessions of a user but one, in the caller's transaction. Where none is left out, tokens of other
        issuers end as well that were issued before now."""
        if but is None:
            await connection.execute(_query("tokens_valid_from"), user_id)
        await connection.execute(_query("sessions_end_all"), user_id, reason, but)
        said = {"reason": reason, "but": but}
        await audit.record(connection, actor, "session.end_all", user_id, None, said, user_id=user_id)


def _caller(row: Row, claims: Claims, narrowed: frozenset[str] | None) -> Caller:
    """Return who this is: a user's row with the claims of their token."""
    limits = [each for each in (narrowed, row["scopes"]) if each is not None]
    limit = frozenset.intersection(*map(frozenset, limits)) if limits else None
    active = row["status"] == "active"
    operator = active and row["operator"] and (limit is None or OPERATOR in limit)
    hint = "" if active else PENDING
    if operator and not row["second_factor"]:
        operator, hint = False, SECOND_FACTOR
    return Caller(
        "person",
        row["id"],
        account_id=row["account_id"],
        user_id=row["id"],
        org_id=row["org_id"],
        role=row["role"],
        scopes=allowed(row["role"], limit) if active else frozenset(),
        operator=operator,
        email=row["email"],
        verified=row["verified"],
        session_id=claims.ses,
        token_id=claims.jti,
        hint=hint,
    )


def _paired(access: AccessToken, refresh_token: str) -> TokenPair:
    values: dict[str, Any] = {name: getattr(access, name) for name in AccessToken.__slots__}
    return TokenPair(**values, refresh_token=refresh_token)


def _refresh_token(random: bytes) -> str:
    return REFRESH_PREFIX + base64.urlsafe_b64encode(random).decode().rstrip("=")


def _successor(refresh_token: str, salt: bytes) -> str:
    return _refresh_token(hmac.digest(refresh_token.encode(), salt, "sha256"))


def _digest(refresh_token: str) -> bytes:
    return sha256(refresh_token.encode()).digest()
