"""Suspensions: an account is suspended for as long as there is a cause, and several may stand at once.

This file owns that the end of one cause, such as a dispute that was won, does not lift what an operator has ordered,
and that an operator's other status lifts all of them. What an account was before is told by `past_due_since`, which a
suspension leaves as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing import audit
from billing.database.connection import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.database.connection import Connection

# The cause of a suspension that an operator has ordered.
OPERATOR: Final = "operator"

_query = queries("billing.accounts")


def causes_after(status: str, causes: Sequence[str]) -> tuple[str, ...]:
    """Return the causes of a suspension after an operator has set a status."""
    if status != "suspended":
        return ()
    return tuple(causes) if OPERATOR in causes else (*causes, OPERATOR)


async def suspend(connection: Connection, account_id: str, cause: str, *, actor: audit.Actor = audit.SYSTEM) -> bool:
    """Add a cause in the caller's transaction and suspend an account that is not closed. Return whether the account has
    changed: then the caller tells `ChangeNotifier.account_changed` after the commit."""
    return await _change(connection, _query("accounts_suspend"), account_id, cause, "account.suspend", actor)


async def lift(connection: Connection, account_id: str, cause: str, *, actor: audit.Actor = audit.SYSTEM) -> bool:
    """End a cause likewise; an account that has none left is active again, or past due if it was."""
    return await _change(connection, _query("accounts_lift"), account_id, cause, "account.lift", actor)


async def _change(
    connection: Connection, query: str, account_id: str, cause: str, action: str, actor: audit.Actor
) -> bool:
    row = await connection.fetchrow(query, account_id, cause)
    if row is None:
        return False
    before, after = {"status": row["before"]}, {"status": row["status"], "cause": cause}
    await audit.record(connection, actor, action, account_id, before, after, account_id=account_id)
    return True
