"""Welcome credit: what a person is given once, when they have proven their address and own an organization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.accounts.grants import PROMOTIONAL, PROMOTIONS, Entry, IdempotencyConflict
from billing.database.connection import queries

if TYPE_CHECKING:
    from billing.accounts.grants import Grants
    from billing.database.connection import Connection

SCOPE: Final = "welcome"
NOTE: Final = "welcome"
_query = queries("billing.identity")


@dataclass(frozen=True, slots=True)
class Welcome:
    """Gives it, as promotional credit of their first organization; nothing where there is none to give."""

    grants: Grants | None = None
    credit_nano: int = 0

    async def give(self, connection: Connection, user_id: str, account_id: str | None = None) -> None:
        """Give a person their welcome credit in the caller's transaction, unless they had it, or are not known yet;
        `account_id` is that of the organization which they have just founded."""
        if self.grants is None or not self.credit_nano:
            return
        account_id = await connection.fetchval(_query("welcome_account"), user_id, account_id)
        if account_id is None:
            return
        entry = Entry(account_id, self.credit_nano, PROMOTIONS, "grant", SCOPE, user_id, NOTE, terms=PROMOTIONAL)
        try:
            await self.grants.record(connection, entry, audit.SYSTEM)
        except IdempotencyConflict:  # they had another amount, or had it in another organization
            return
