"""Shown tokens: whose an access token is, and what that is worth now.

A signature says whose a token is, and one statement of Postgres all else: whether its session has ended, whether it was
revoked or the user disabled, and the role in the organization that is asked for. So all of that is effective in the
next request on every gateway. Times of own tokens are compared with Postgres's clock, by which they were issued.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.database.connection import Database, Row, queries
from billing.identity.callers import Caller
from billing.identity.permissions import allowed
from billing.identity.tokens import ISSUER, OPERATOR, BadToken, Claims, Verified, peek

if TYPE_CHECKING:
    from collections.abc import Iterable

    from billing.identity.issuers import ForeignTokens
    from billing.identity.signing_keys import SigningKeys
    from billing.identity.subjects import Subjects

_query = queries("billing.identity")
PENDING: Final = "Your registration is not complete: verify your address, or wait until an operator has let you in."
SECOND_FACTOR: Final = (
    "Operators need a second factor: add one on the console's page of security, or by `metergate auth totp enrol`."
)


class ShownTokens:
    """Says who shows a token: one of the own ones, or with `foreign` one of another issuer. Methods raise
    `DatabaseError`, and `IssuerAway` where another issuer's keys can't be had."""

    def __init__(
        self,
        database: Database,
        keys: SigningKeys,
        foreign: ForeignTokens | None = None,
        subjects: Subjects | None = None,
    ) -> None:
        self._database, self._keys = database, keys
        self._foreign, self._subjects = foreign, subjects

    async def caller(self, token: str, org_id: str | None) -> Caller | None:
        """Return who shows a token, as what they are now in the organization of this id, else the token's, else their
        first one; None for a token that is not valid, or not any more. A subject that was never seen becomes a user."""
        verified = await self.verified(token)
        if verified is None:
            return None
        row = await self._standing(verified, org_id)
        if row is None and verified.subject is not None and self._subjects is not None:
            await self._subjects.see(verified.subject)
            row = await self._standing(verified, org_id)
        return None if row is None else _caller(row, verified)

    async def verified(self, token: str) -> Verified | None:
        """Return the claims of a token, without asking whether it was revoked; None if its signature is wrong, or, of
        another issuer's token, its time or audience."""
        try:
            header, issuer = peek(token)
            if issuer != ISSUER:
                return None if self._foreign is None else await self._foreign.verify(token, header, issuer)
            claims = await self._keys.verify(token, header.kid, Claims)
        except BadToken:
            return None
        if claims.ses is None or claims.iat is None or ISSUER not in claims.audiences:
            return None
        return Verified(claims, claims.scopes if claims.narrow is True else None, header.kid)

    async def _standing(self, verified: Verified, org_id: str | None) -> Row | None:
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


def _text(given: object) -> str | None:
    return given if isinstance(given, str) else None


def narrowest(limits: Iterable[Iterable[str] | None]) -> frozenset[str] | None:
    """Return the scopes that are within each of these limits, of which None is none; None where none is one."""
    given = [frozenset(each) for each in limits if each is not None]
    return frozenset.intersection(*given) if given else None


def _caller(row: Row, verified: Verified) -> Caller:
    """Return the caller: a user's row with the claims of the token."""
    limit = narrowest((verified.narrowed, row["scopes"]))
    if verified.subject is None:
        return person_of(row, limit, session_id=verified.claims.ses, token_id=verified.claims.jti)
    return person_of(
        row, limit, session_id=None, token_id=verified.claims.jti, said_operator=verified.operator, own=False
    )


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
