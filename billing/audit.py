"""The audit log: who did what, to what, what it said before and after, from where and by which request.

A row is written in the transaction that makes the change. Nothing in it is ever a secret.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from billing.database.connection import Connection, queries

_query = queries("billing.ledger")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: `name` is `admin`, `system`, or a kind and an id such as `user:usr_...`, `key:key_...`, `service:name`.
    `address` is where the request came from, `request_id` its x-request-id."""

    name: str
    address: str | None = None
    request_id: str | None = None


ADMIN: Final = Actor("admin")
"""Whoever has the admin key."""
SYSTEM: Final = Actor("system")
"""The gateway itself, by a rule."""


async def record(
    connection: Connection,
    actor: Actor,
    action: str,
    subject: str,
    before: Mapping[str, object] | None,
    after: Mapping[str, object] | None,
    *,
    account_id: str | None = None,
    user_id: str | None = None,
) -> None:
    """Add one row; `action` is a noun and a verb such as `account.update`, `subject` an id. Whoever may read the audit
    log of `account_id`, or is `user_id`, sees it. Never holds a secret."""
    said = (actor.name, action, subject, before, after, actor.address, actor.request_id, account_id, user_id)
    await connection.execute(_query("accounts_audit"), *said)
