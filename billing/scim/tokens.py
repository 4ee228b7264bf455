"""Tokens of SCIM: what an organization's directory shows when it calls.

A secret has 256 random bits, is shown once, stored as SHA-256 and found by that alone, so that no comparison's time
tells anything of it. It opens the SCIM endpoints of one organization and nothing else.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, cast

from billing import audit
from billing.database.connection import Database, Row, from_row, queries
from billing.identity.organizations import (
    Acting,
    OrganizationConflict,
    OrganizationNotFound,
    check_acting,
    locked,
)
from billing.keys.secrets import secret_digest, shown_prefix
from billing.pages import BEFORE_ALL, Page, page_of
from billing.permissions import ORG_TRANSFER

if TYPE_CHECKING:
    from collections.abc import Callable

ID_PREFIX: Final = "sct_"
# What a secret begins with, so that scanners of leaks can tell it.
SECRET_PREFIX: Final = "mgs_"  # noqa: S105
SECRET_BYTES: Final = 32
_LENGTH: Final = len(SECRET_PREFIX) + 43
_query = queries("billing.scim")


@dataclass(frozen=True, slots=True)
class ScimToken:
    """A row of scim_tokens without its digest."""

    id: str
    org_id: str
    name: str
    prefix: str
    created_by: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class ScimTokens:
    """Makes, lists, recognises and revokes tokens; an organization has at most `most` that work. Methods raise
    `OrganizationError` and `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        new_id: Callable[[], str],
        most: int,
        new_secret: Callable[[], str] = lambda: SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES),
    ) -> None:
        self._database, self._new_id, self._most, self._new_secret = database, new_id, most, new_secret

    async def create(self, org_id: str, name: str, acting: Acting) -> tuple[ScimToken, str]:
        """Make a token for an owner, and return it with its secret, which can't be read again. Raises
        `OrganizationForbidden`, and `OrganizationConflict` for one too many."""
        secret = self._new_secret()
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            await check_acting(connection, org_id, acting, ORG_TRANSFER, "owner")
            if await connection.fetchval(_query("tokens_count"), org_id) >= self._most:
                raise OrganizationConflict(f"There are {self._most} tokens already: revoke one that is not used.")
            given = ID_PREFIX + self._new_id(), org_id, name, shown_prefix(secret), secret_digest(secret)
            row = await connection.fetchrow(_query("tokens_insert"), *given, acting.user_id)
            token = _token(cast("Row", row))
            after, account_id = {"name": name, "prefix": token.prefix}, organization.account_id
            await audit.record(
                connection, acting.actor, "scim_token.create", token.id, None, after, account_id=account_id
            )
        return token, secret

    async def page(self, org_id: str, limit: int, after: str | None = None) -> Page[ScimToken]:
        """Return an organization's tokens, newest first, also those that were revoked."""
        rows = await self._database.rows(_query("tokens_page"), org_id, after or BEFORE_ALL, limit + 1)
        return page_of([_token(row) for row in rows], limit, lambda token: token.id)

    async def revoke(self, org_id: str, token_id: str, acting: Acting) -> None:
        """Make a token invalid from the next call on; one that is revoked already stays so."""
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            await check_acting(connection, org_id, acting, ORG_TRANSFER, "owner")
            row = await connection.fetchrow(_query("tokens_get"), org_id, token_id)
            if row is None:
                raise OrganizationNotFound(f"There is no token {token_id!r}.")
            if row["revoked_at"] is None:
                await connection.execute(_query("tokens_revoke"), token_id)
                before, account_id = {"name": row["name"], "prefix": row["prefix"]}, organization.account_id
                await audit.record(
                    connection, acting.actor, "scim_token.revoke", token_id, before, None, account_id=account_id
                )

    async def recognise(self, secret: str) -> ScimToken | None:
        """Return the token that has this secret and is valid now; None for any other text. Noted as used once a
        minute."""
        if len(secret) != _LENGTH or not secret.startswith(SECRET_PREFIX) or not secret.isascii():
            return None
        digest = secret_digest(secret)
        row = await self._database.row(_query("tokens_recognise"), digest)
        if row is None or not hmac.compare_digest(row["digest"], digest):
            return None
        return _token(row)


def _token(row: Row) -> ScimToken:
    return from_row(ScimToken, row)
