"""The audit log: actor, action, subject, state before and after, written in the transaction that makes the change."""

from collections.abc import Mapping
from typing import Final

from billing.database.connection import Connection, queries

ADMIN: Final = "admin"
"""The actor of requests with the admin key."""

_query = queries("billing.ledger")


async def record(
    connection: Connection,
    actor: str,
    action: str,
    subject: str,
    before: Mapping[str, object] | None,
    after: Mapping[str, object] | None,
) -> None:
    """Add one row; `action` is a noun and a verb such as `account.update`, `subject` an id. Never holds a secret."""
    await connection.execute(_query("accounts_audit"), actor, action, subject, before, after)
