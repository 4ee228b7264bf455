"""The audit log: who did what, to what, what it said before and after, from where and by which request.

A row is written in the transaction that makes the change, and stays for good. Nothing in it is ever a secret.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from billing.database.connection import Connection, Database, queries
from billing.pages import BadCursor, Page, page_of

_query = queries("billing")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: `name` is `admin`, `system`, or a kind and an id such as `user:usr_...`, `key:key_...`, `service:name`.
    `address` is where the request came from, `request_id` its x-request-id."""

    name: str
    address: str | None = None
    request_id: str | None = None


# The actor of calls with the admin key.
ADMIN: Final = Actor("admin")
# The gateway itself, by a rule.
SYSTEM: Final = Actor("system")


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
    row = (actor.name, action, subject, before, after, actor.address, actor.request_id, account_id, user_id)
    await connection.execute(_query("accounts_audit"), *row)


# Above every row's number: where the first page begins.
NEWEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which rows: about an account, about a user, by an actor, of an action (`account.*` means all of a noun), from
    `since` on and before `until`. `own` hides where those came from who don't belong to the account; `about` is a user
    who also sees what is of no account and about them."""

    account_id: str | None = None
    user_id: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    own: bool = False
    about: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of the audit log: who changed which object, its content before and after, from which address and by which
    request."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    before: Any
    after: Any
    address: str | None
    request_id: str | None
    account_id: str | None
    user_id: str | None


@dataclass
class AuditLog:
    """Reads the audit log. Methods raise `DatabaseError`."""

    database: Database

    async def page(self, only: AuditFilter, limit: int, after: str | None = None) -> Page[AuditEntry]:
        """Return rows, newest first; `after` is where the page before ended. Raises `BadCursor`."""
        before = NEWEST
        if after is not None:
            number = after.partition(".")[0]
            if not (number.isascii() and number.isdigit() and int(number) <= NEWEST):
                raise BadCursor("This cursor is not from this list.")
            before = int(number)
        rows = await self.database.rows(
            _query("audit_page"),
            before,
            only.account_id,
            only.user_id,
            only.actor,
            only.action,
            only.since,
            only.until,
            limit + 1,
            only.own,
            only.about,
        )
        return page_of([AuditEntry(**dict(row)) for row in rows], limit, lambda entry: str(entry.id))

    async def names(self, ids: Iterable[str | None], account_id: str | None = None) -> dict[str, str]:
        """Return what those are called whom rows have as actors (`user:ID`), subjects or accounts: people's addresses,
        names of keys, accounts and organizations, by what the rows say. With an account only what belongs to it."""
        said = {each: each.rpartition(":")[2] for each in ids if each}
        rows = await self.database.rows(_query("audit_names"), sorted(set(said.values())), account_id)
        known = {row["id"]: row["name"] for row in rows}
        return {each: known[name] for each, name in said.items() if known.get(name)}
