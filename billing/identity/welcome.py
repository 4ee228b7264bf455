"""Welcome credit: what a person is given once, when they have proven their address and own an organization.

Once for each mailbox, whatever it is called: `ada+1@example.com` is Ada's, and so are `a.da@gmail.com` and
`ada@googlemail.com` hers who is `ada@gmail.com`. For this purpose alone: elsewhere each address is a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.accounts.grants import PROMOTIONAL, PROMOTIONS, Entry, IdempotencyConflict
from billing.database.connection import queries

if TYPE_CHECKING:
    from billing.accounts.grants import Grants
    from billing.database.connection import Connection

# Domains at which dots before the @ mean nothing, and which are one.
_GMAIL: Final = ("gmail.com", "googlemail.com")
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
        row = await connection.fetchrow(_query("welcome_account"), user_id, account_id)
        if row is None:
            return
        owner = await connection.fetchval(_query("welcome_mailbox"), mailbox_of(row["email"]), user_id)
        if owner != user_id:
            return
        entry = Entry(row["account_id"], self.credit_nano, PROMOTIONS, "grant", SCOPE, user_id, NOTE, terms=PROMOTIONAL)
        try:
            await self.grants.record(connection, entry, audit.SYSTEM)
        except IdempotencyConflict:  # they had another amount, or had it in another organization
            return


def mailbox_of(email: str) -> bytes:
    """Return the digest of the mailbox that an address leads to: the address itself need not be kept."""
    name, _, domain = email.strip().lower().rpartition("@")
    name = name.partition("+")[0] or name
    if domain in _GMAIL:
        name, domain = name.replace(".", ""), _GMAIL[0]
    return sha256(f"{name}@{domain}".encode()).digest()
