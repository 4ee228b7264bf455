"""Whose the traffic is: subjects, by the uuid that exporters count them under, and their accounts.

A new subject gets the account of another one with its e-mail address, or the personal account of whoever has proven to
have that address. For others it is made or they are parked, by the policy; operators assign parked ones, and they are
matched later where their address is found then. What was counted of a subject before it had an account is charged from
there on. One that has an account is moved to another by operators, from the next minute on: what is known by then stays
with the one before, and what comes late of that time is charged there. An account that collection meets for the first
time gets its initial balance and its included bytes, once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Final

from billing import audit
from billing.accounts.accounts import open_account
from billing.accounts.grants import PROMOTIONAL, PROMOTIONS, BalanceOutOfBounds, Entry
from billing.collect.snapshots import LOCK
from billing.database.connection import queries
from billing.errors import AccountNotFound, Kind, MetergateError
from billing.pages import BadCursor, Page, page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing.accounts.grants import Grants
    from billing.database.connection import Connection, Database, Row
    from billing.settings import Unknown

logger = logging.getLogger(__name__)

_query = queries("billing.collect")

# How many subjects one transaction checks.
AT_ONCE: Final = 100
# Subjects of one e-mail address that an operator assigns at once.
MOST_ASSIGNED: Final = 1000
NEWEST: Final = 2**63 - 1
EXCLUSIVE: Final = "SELECT pg_advisory_xact_lock($1)"
_NAME: Final = 200


class SubjectNotFound(MetergateError):
    """No subject has this uuid or e-mail address."""

    kind: ClassVar[Kind] = "not_found"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom an exporter counts. `bytes` are all that were counted of it."""

    id: int
    uuid: str
    email: str
    account_id: str | None
    created_at: datetime
    bytes: int


@dataclass(frozen=True, slots=True)
class SubjectRules:
    """What happens to subjects without an account, and what a new account starts with."""

    unknown: Unknown = "create"
    plan: str = "free"
    initial_nano: int = 0
    included_bytes: int = 0


@dataclass
class Subjects:
    """Gives subjects their accounts. Methods raise `database.connection.DatabaseError`."""

    database: Database
    grants: Grants
    rules: SubjectRules
    new_id: Callable[[], str]

    async def settle(self) -> set[str]:
        """Look into all that are new, and into parked ones that somebody is found for; return the accounts whose
        balances that has raised."""
        granted: set[str] = set()
        while await self.database.rows(_query("waiting_subjects"), 1):
            async with self.database.transaction() as connection:
                await connection.execute(EXCLUSIVE, LOCK)
                granted |= await self._settled(connection, await connection.fetch(_query("waiting_subjects"), AT_ONCE))
        return granted

    async def _settled(self, connection: Connection, waiting: Sequence[Row]) -> set[str]:
        made: dict[str, str] = {}
        granted: set[str] = set()
        parked: list[int] = []
        for row in waiting:
            email = row["email"].lower()
            account_id = row["account_id"] or (made.get(email) if email else None)
            if account_id is None and self.rules.unknown == "park":
                parked.append(row["id"])
                continue
            if account_id is None:
                account_id = await self._made(connection, row)
                made[email] = account_id
            granted |= await self._assign(connection, row["id"], account_id)
        if parked:
            await connection.execute(_query("park_subjects"), parked)
        return granted

    async def _made(self, connection: Connection, row: Row) -> str:
        name = (row["email"] or row["uuid"])[:_NAME]
        account = await open_account(connection, self.new_id, name, self.rules.plan, actor=audit.SYSTEM)
        return account.id

    async def _assign(
        self, connection: Connection, subject_id: int, account_id: str, at: datetime | None = None
    ) -> set[str]:
        """Give a subject its account, and that what it begins with where it is met for the first time; return it where
        that raised its balance. One that has another is moved after `at`."""
        await connection.execute(_query("assign_subject"), subject_id, account_id, at)
        rules = self.rules
        met = await connection.fetchval(_query("meet_account"), account_id, rules.included_bytes)
        if met is None or not rules.initial_nano:
            return set()
        scope_and_reason = f"collect:{account_id}", "initial-balance", "initial balance"
        entry = Entry(account_id, rules.initial_nano, PROMOTIONS, "grant", *scope_and_reason, terms=PROMOTIONAL)
        try:
            result = await self.grants.record(connection, entry, audit.SYSTEM)
        except BalanceOutOfBounds as error:  # before anything was written
            logger.warning("account %s gets no initial balance: %s", account_id, error)
            return set()
        return set() if result.replayed else {account_id}

    async def assign(
        self, name: str, account_id: str, at: datetime, actor: audit.Actor = audit.ADMIN
    ) -> tuple[int, set[str]]:
        """Give the subjects of a uuid or e-mail address this account, those that have another from the minute after
        `at` on; return how many did not have it, and whether its balance was raised. Raises `SubjectNotFound`,
        `accounts.AccountNotFound`."""
        async with self.database.transaction() as connection:
            await connection.execute(EXCLUSIVE, LOCK)
            if await connection.fetchval("SELECT id FROM accounts WHERE id = $1", account_id) is None:
                raise AccountNotFound(f"There is no account {account_id!r}.")
            found = await connection.fetch(_query("find_subjects"), name, MOST_ASSIGNED, account_id)
            if not found:
                raise SubjectNotFound(f"Exporters have counted no subject with the uuid or e-mail address {name!r}.")
            others = [row["id"] for row in found if row["account_id"] != account_id]
            granted: set[str] = set()
            for subject_id in others:
                granted |= await self._assign(connection, subject_id, account_id, at)
            after = {"subject": name, "subjects": len(others)}
            await audit.record(connection, actor, "account.collect", account_id, None, after, account_id=account_id)
        return len(others), granted

    async def page(self, limit: int, after: str | None = None, *, parked: bool = False) -> Page[Subject]:
        """Return subjects, the newest first; with `parked` those alone that have no account. Raises
        `pages.BadCursor`."""
        if after is not None and not (after.isdecimal() and len(after) < len(str(NEWEST))):
            raise BadCursor("This cursor is not from this list.")
        rows = await self.database.rows(
            _query("page_subjects"), NEWEST if after is None else int(after), limit + 1, parked
        )
        found = [Subject(**{**dict(row), "bytes": int(row["bytes"])}) for row in rows]
        return page_of(found, limit, lambda subject: str(subject.id))
