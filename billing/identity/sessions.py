"""Sessions: a sign-in, and the tokens that it is carried on by.

An access token is a JWT, a refresh token 256 random bits, of which the digest is stored. A signature says whose a token
is, and one statement of Postgres all else: whether its session has ended, whether it was revoked or the user disabled,
and the role in the organization that is asked for. So all of that is effective in the next request on every gateway.
Times of own tokens are compared with Postgres's clock, by which they were issued.

A refresh token is good once. For `grace_s` after that it gives the same successor again, because the answer may have
been lost, or two tabs may have asked at once; shown later, somebody has a copy, and the session ends (RFC 9700,
section 4.14.2).
The successor is the HMAC of a stored salt by the old token, so that it is the same for all who ask and stored nowhere.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.identity.tokens import (
    ISSUER,
    MAX_LIFE_S,
    OPERATOR,
    SECRET_BYTES,
    BadToken,
    Claims,
    SigningKeys,
    Verified,
    peek,
)
from billing.pages import BEFORE_ALL, Page, page_of
from billing.permissions import allowed
from billing.principals import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from billing.identity.issuers import ForeignTokens
    from billing.identity.users import Subjects

_query = queries("billing.identity")
ID_PREFIX: Final = "ses_"
# What a refresh token begins with, so that scanners of leaks can tell it.
REFRESH_PREFIX: Final = "mgr_"
MAX_USER_AGENT: Final = 400
# Used refresh tokens of a session by which a copy is noticed: those that were used last.
MOST_USED: Final = 200
PENDING: Final = "Your registration is not complete: verify your address, or wait until an operator has let you in."
SECOND_FACTOR: Final = (
    "Operators need a second factor: add one on the console's page of security, or by `metergate auth totp enrol`."
)
# Statements that delete what is over, so many rows at a time, and give how many there were.
FORGET: Final = tuple(
    _query(f"forget_{each}") for each in ("sessions", "refresh_tokens", "revoked", "keys", "operator_links")
)
# The same for who has registered and has not proven the address for so many days, which come first.
FORGET_UNVERIFIED: Final = _query("forget_unverified")


class SignInRefused(MetergateError):
    """A user who is not there, or disabled, can't sign in."""

    kind = "unauthorized"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token and what it may do now, as scopes."""

    access_token: str = field(repr=False)
    expires_in_s: int
    session_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class TokenPair(AccessToken):
    """The tokens of a sign-in."""

    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a session begins: an address and browser, and the provider that has signed the user in, with the domain of
    the address that it has verified."""

    address: str | None = None
    user_agent: str | None = None
    provider: str | None = None
    domain: str | None = None


NOWHERE: Final = Origin()


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its user sees it."""

    id: str
    org_id: str | None
    scopes: list[str] | None
    address: str | None
    user_agent: str | None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class MembersSession:
    """A session of a member, as operators see it."""

    user_id: str
    address: str | None
    user_agent: str | None
    last_used_at: datetime
    expires_at: datetime


class Sessions:
    """Starts, continues and ends sessions, and says who shows a token: one of the own ones, or with `foreign` one of
    another issuer. `published` are the keys that verify own tokens, `transaction` is what methods with a connection
    work in. Methods raise `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        keys: SigningKeys,
        new_id: Callable[[], str],
        *,
        foreign: ForeignTokens | None = None,
        subjects: Subjects | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
        admits: Callable[[str, str | None], bool] = lambda provider, domain: True,
    ) -> None:
        """`random` makes so many random bytes; `admits` says whether a provider still lets in who has an address of
        this domain, None: one that it has not verified."""
        self._database, self.keys, self._rules = database, keys, keys.rules
        self._foreign, self._subjects, self._admits = foreign, subjects, admits
        self._new_id, self._random = new_id, random
        self.published, self.transaction = keys.published, database.transaction

    async def caller(self, token: str, org_id: str | None) -> Caller | None:
        """Return who shows a token, as what they are now in the organization of this id, else the token's, else their
        first one; None for a token that is not valid, or not any more. A subject that was never seen becomes a user."""
        verified = await self.verified(token)
        if verified is None:
            return None
        row = await self._read(verified, org_id)
        if row is None and verified.subject is not None and self._subjects is not None:
            await self._subjects.see(verified.subject)
            row = await self._read(verified, org_id)
        if row is None:
            return None
        limit, own = narrowest((verified.narrowed, row["scopes"])), verified.subject is None
        session_id = verified.claims.ses if own else None
        return person_of(
            row, limit, session_id=session_id, token_id=verified.claims.jti, said_operator=verified.operator, own=own
        )

    async def verified(self, token: str) -> Verified | None:
        """Return the claims of a token, without asking whether it was revoked; None if its signature is wrong, or, of
        another issuer's token, its time or audience."""
        try:
            header, issuer = peek(token)
            if issuer != ISSUER:
                return None if self._foreign is None else await self._foreign.verify(token, header, issuer)
            claims = await self.keys.verify(token, header.kid, Claims)
        except BadToken:
            return None
        if claims.ses is None or claims.iat is None or ISSUER not in claims.audiences:
            return None
        return Verified(claims, claims.scopes if claims.narrow is True else None, header.kid)

    async def _read(self, verified: Verified, org_id: str | None) -> Row | None:
        """Return the user of a token, if it is good now, with their place in an organization."""
        claims, subject = verified.claims, verified.subject
        whose: tuple[str | None, ...]
        if subject is not None:
            whose = None, subject.issuer, subject.subject, org_id, None
        else:
            whose = claims.sub, None, None, org_id or _text(claims.org_id), claims.ses
        issued_at = claims.iat or 0.0
        return await self._database.row(
            _query("sessions_caller"), *whose, claims.jti, issued_at, claims.exp, verified.kid
        )

    async def start(
        self,
        connection: Connection,
        user_id: str,
        origin: Origin = NOWHERE,
        *,
        org_id: str | None = None,
        scopes: Iterable[str] | None = None,
        first_use_s: int | None = None,
    ) -> TokenPair:
        """Start a session of a user, whose identity the caller has checked, in the caller's transaction, which locks
        the user's row. Its tokens are about this organization, else the first one, and no wider than `scopes`. With
        `first_use_s` it ends so soon unless its refresh token is used. Raises `SignInRefused`."""
        refresh_token = _refresh_token(self._random(SECRET_BYTES))
        narrowed = None if scopes is None else sorted(set(scopes))
        row = await connection.fetchrow(
            _query("sessions_start"),
            ID_PREFIX + self._new_id(),
            user_id,
            org_id,
            narrowed,
            origin.address,
            shown_agent(origin.user_agent),
            _digest(refresh_token),
            first_use_s or self._rules.refresh_s,
            origin.provider,
            origin.domain,
        )
        if row is None:
            raise SignInRefused("This user can't sign in: ask whoever runs this service.")
        await connection.execute(_query("sessions_bound"), user_id, self._rules.sessions)
        return _paired(await self._access(row), refresh_token)

    async def refresh(self, refresh_token: str, actor: audit.Actor) -> TokenPair | None:
        """Return the successor of a refresh token with a new access token; None for one that is not valid, or was used
        before, or of who is let in no more. Of the latter two the session ends, and `actor`, whose address and request
        are known, is in the audit log."""
        digest = _digest(refresh_token)
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("refresh_find"), digest, self._rules.grace_s)
            if row is None or not row["valid"]:
                return None
            reason = self._over(row)
            if reason is not None:
                await self.end(connection, row["session_id"], reason, actor=actor)
                return None
            salt = row["salt"] or self._random(SECRET_BYTES)
            successor = _successor(refresh_token, salt)
            if row["salt"] is None:
                await connection.execute(
                    _query("refresh_rotate"), digest, _digest(successor), salt, self._rules.refresh_s
                )
                await connection.execute(_query("refresh_trim"), row["session_id"], MOST_USED)
            claims = await connection.fetchrow(_query("refresh_claims"), row["session_id"], None)
        return None if claims is None else _paired(await self._access(claims), successor)

    def _over(self, row: Row) -> str | None:
        """Return why a session ends that a valid refresh token is of; None where it goes on."""
        if row["reused"]:
            return "a refresh token was used twice"
        if row["provider"] is not None and not self._admits(row["provider"], row["domain"]):
            return "its provider lets this domain in no more"
        return None

    async def narrow(self, token: str, scopes: frozenset[str] | None, org_id: str | None) -> AccessToken | None:
        """Return another access token of a token's session, for this organization, no wider than these scopes or than
        the token, and gone when that is: who has found a token can't keep it alive. None where the session has ended,
        or its user is no member there."""
        verified = await self.verified(token)
        if verified is None or verified.claims.ses is None:
            return None
        row = await self._database.row(_query("refresh_claims"), verified.claims.ses, org_id)
        if row is None or (org_id is not None and row["org_id"] is None):
            return None
        return await self._access(row, narrowest((scopes, verified.narrowed)), int(verified.claims.exp))

    async def _access(
        self, row: Row, narrowed: frozenset[str] | None = None, most_until: int | None = None
    ) -> AccessToken:
        """Return a new access token with the claims of a session's row, which ends at `most_until` at the latest."""
        limit = narrowest((row["scopes"], narrowed))
        scopes = allowed(row["role"], limit) if row["active"] else frozenset[str]()
        issued = int(row["issued_at"])
        expires = min(issued + self._rules.access_s, int(row["ends_at"]))
        expires = expires if most_until is None else min(expires, most_until)
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
        return AccessToken(await self.keys.sign(claims), expires - issued, row["session_id"], scopes)

    async def revoke(
        self, connection: Connection, user_id: str | None, jti: str, reason: str | None, actor: audit.Actor
    ) -> bool:
        """Refuse the token of this id from now on, where it is the user's; whose ever it is, where `user_id` is None.
        In the caller's transaction. Returns False for a user who has revoked too many that have not expired."""
        given = jti, user_id or "", reason, MAX_LIFE_S, self._rules.revoked
        if await connection.fetchval(_query("tokens_revoke"), *given) is None:
            return False
        await audit.record(connection, actor, "token.revoke", jti, None, {"reason": reason}, user_id=user_id)
        return True

    async def of_refresh_token(self, refresh_token: str) -> tuple[str, str] | None:
        """Return session and user of a refresh token; None for one that is unknown."""
        row = await self._database.row(_query("refresh_whose"), _digest(refresh_token))
        return None if row is None else (row["session_id"], row["user_id"])

    async def page(self, user_id: str, limit: int, after: str | None = None) -> Page[Session]:
        """Return the sessions of a user that have not ended, newest first; `after` is the id that ended the page
        before."""
        rows = await self._database.rows(_query("sessions_page"), user_id, after or BEFORE_ALL, limit + 1)
        return page_of([Session(**dict(row)) for row in rows], limit, lambda session: session.id)

    async def of_organization(self, org_id: str, limit: int) -> list[MembersSession]:
        """Return the sessions of an organization's members that have not ended, in whichever organization they act,
        those used last first."""
        rows = await self._database.rows(_query("sessions_of_organization"), org_id, limit)
        return [MembersSession(**dict(row)) for row in rows]

    async def end(
        self,
        connection: Connection,
        session_id: str,
        reason: str,
        *,
        of_user: str | None = None,
        actor: audit.Actor = audit.SYSTEM,
    ) -> bool:
        """End a session and all of its tokens, in the caller's transaction; with `of_user` only one of theirs. Returns
        whether there is such a one that had not ended yet."""
        user_id = await connection.fetchval(_query("sessions_end"), session_id, reason, of_user)
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
        after = {"reason": reason, "but": but}
        await audit.record(connection, actor, "session.end_all", user_id, None, after, user_id=user_id)


def shown_agent(user_agent: str | None) -> str | None:
    """Return a client's User-Agent without characters that a page can't show or Postgres can't store."""
    if user_agent is None:
        return None
    return "".join(each for each in user_agent if each.isprintable())[:MAX_USER_AGENT]


def _paired(access: AccessToken, refresh_token: str) -> TokenPair:
    return TokenPair(access.access_token, access.expires_in_s, access.session_id, access.scopes, refresh_token)


def _refresh_token(random: bytes) -> str:
    return REFRESH_PREFIX + base64.urlsafe_b64encode(random).decode().rstrip("=")


def _successor(refresh_token: str, salt: bytes) -> str:
    return _refresh_token(hmac.digest(refresh_token.encode(), salt, "sha256"))


def _digest(refresh_token: str) -> bytes:
    return sha256(refresh_token.encode()).digest()


def _text(given: object) -> str | None:
    return given if isinstance(given, str) else None


def narrowest(limits: Iterable[Iterable[str] | None]) -> frozenset[str] | None:
    """Return the scopes that are within each of these limits, of which None is none; None where none is one."""
    given = [frozenset(each) for each in limits if each is not None]
    return frozenset.intersection(*given) if given else None


def person_of(
    row: Row,
    limit: frozenset[str] | None,
    *,
    session_id: str | None,
    token_id: str | None,
    said_operator: bool = False,
    own: bool = True,
) -> Caller:
    """Return who this is, by a user's row with a place in an organization, within the scopes of `limit`. Whether
    somebody is an operator is the row's to say in an `own` session, and the issuer's otherwise (`said_operator`)."""
    active = row["status"] == "active"
    operator, hint = active and said_operator, "" if active else PENDING
    if own and active and row["operator"] and (limit is None or OPERATOR in limit):
        operator, hint = (True, "") if row["second_factor"] else (False, SECOND_FACTOR)
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
        session_id=session_id,
        token_id=token_id,
        hint=hint,
        narrowed=limit,
    )
