"""API keys in Postgres: made, listed, changed and revoked, and read as principals.

This file owns the rule that a secret leaves it once, from `create`, and that each change of a key raises its version in
the same statement. Only a secret's SHA-256 is stored. What a key may say is in `billing.shapes.keys`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from billing import audit
from billing.accounts.accounts import AccountNotFound
from billing.database.connection import Connection, Database, Row, affected, queries
from billing.keys.secrets import new_secret, secret_digest, shown_prefix
from billing.pages import BEFORE_ALL, Page, page_of
from billing.plans import DEFAULT_PLAN, Plan, Plans
from billing.principals import SERVICE_KEY, Principal
from billing.quotas import parse_quotas
from billing.shapes.keys import RULES, KeyRow, KeyRules, rules_shown
from billing.shapes.rules import KeyNotFound
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.effects import Effects

ID_PREFIX: Final = "key_"

_log = logging.getLogger(__name__)
_query = queries("billing.ledger")
_FIELDS: Final = tuple(field.name for field in fields(KeyRow))


def _of_rules(name: str, first: int) -> str:
    """Return a query with the columns of `RULES` in it, and their parameters from `$first` on."""
    numbers = range(first, first + len(RULES))
    return _query(name).format(columns=", ".join(RULES), values=", ".join(f"${number}" for number in numbers))


_CREATE: Final = _of_rules("keys_create", 7)
_UPDATE: Final = _of_rules("keys_update", 3)


class ApiKeys:
    """Makes, reads, changes and revokes keys. Methods raise `ApiKeyError` and `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        effects: Effects,
        new_id: Callable[[], str],
        choice: Callable[[str], str] = secrets.choice,
    ) -> None:
        """`new_id` makes ULIDs that rise with time; `choice` picks a character of a secret at random."""
        self._database, self._effects = database, effects
        self._new_id, self._choice = new_id, choice

    async def create(
        self, account_id: str, name: str, *, user_id: str | None = None, actor: audit.Actor = audit.ADMIN, **rules: Any
    ) -> tuple[KeyRow, str]:
        """Create a key and return it with its secret, which can't be read again. `rules` are fields of `KeyRules`.

        Raises `AccountNotFound`, `KeyRefused`, `QuotaError`, and `TypeError` for a rule that there is not.
        """
        stored = _stored(KeyRules(**rules))
        secret = new_secret(self._choice)
        key_id, prefix, digest = ID_PREFIX + self._new_id(), shown_prefix(secret), secret_digest(secret)
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_CREATE, key_id, account_id, user_id, name, prefix, digest, *stored)
            if row is None:
                raise AccountNotFound(f"There is no account {account_id!r}.")
            key = key_row(row)
            await audit.record(connection, actor, "key.create", key.id, None, _audited(key), account_id=account_id)
        return key, secret

    async def get(self, key_id: str) -> KeyRow:
        """Return the key, also when it is revoked."""
        row = await self._database.row(_query("keys_get"), key_id)
        if row is None:
            raise _not_found(key_id)
        return key_row(row)

    async def page(self, account_id: str | None, limit: int, after: str | None = None) -> Page[KeyRow]:
        """Return keys of one account, or of all, newest first; `after` is the id that ended the page before."""
        rows = await self._database.rows(_query("keys_page"), account_id, after or BEFORE_ALL, limit + 1)
        return page_of([key_row(row) for row in rows], limit, lambda key: key.id)

    async def update(self, key_id: str, changes: Mapping[str, Any], *, actor: audit.Actor = audit.ADMIN) -> KeyRow:
        """Change `name`, or fields of `KeyRules`. A key that already says all of it stays at its version.

        Raises `KeyNotFound`, `KeyRefused`, `QuotaError`.
        """
        async with self._database.transaction() as connection:
            before = await _locked(connection, key_id)
            wanted = replace(before, **changes)
            if wanted == before:
                return before
            row = await connection.fetchrow(_UPDATE, key_id, wanted.name, *_stored(wanted))
            after = key_row(cast(Row, row))
            said = _audited(before), _audited(after)
            await audit.record(connection, actor, "key.update", key_id, *said, account_id=after.account_id)
        await self._effects.key_changed(key_id, after.account_id)
        return after

    async def revoke(self, key_id: str, *, actor: audit.Actor = audit.ADMIN) -> KeyRow:
        """Make a key invalid at once. One that is already revoked stays as it is."""
        async with self._database.transaction() as connection:
            before = await _locked(connection, key_id)
            row = await connection.fetchrow(_query("keys_revoke"), key_id)
            if row is None:
                return before
            after = key_row(row)
            said = _audited(before), _audited(after)
            await audit.record(connection, actor, "key.revoke", key_id, *said, account_id=after.account_id)
        await self._effects.key_changed(key_id, after.account_id)
        return after

    async def touch_last_used(self, used: Iterable[tuple[str, float]]) -> int:
        """Note when keys were last used, in Unix seconds, and return how many were found; their versions stay."""
        latest: dict[str, float] = {}
        for key_id, at_s in used:
            latest[key_id] = max(at_s, latest.get(key_id, at_s))
        times = [datetime.fromtimestamp(at_s, UTC) for at_s in latest.values()]
        return affected(await self._database.execute(_query("keys_touch"), list(latest), times))


async def _locked(connection: Connection, key_id: str) -> KeyRow:
    row = await connection.fetchrow(_query("keys_lock"), key_id)
    if row is None:
        raise _not_found(key_id)
    return key_row(row)


def _not_found(key_id: str) -> KeyNotFound:
    return KeyNotFound(f"There is no key {key_id!r}.")


def _stored(rules: KeyRules) -> list[Any]:
    """Return what the columns of `RULES` get, in their order."""
    return [rule.store(getattr(rules, name)) for name, rule in RULES.items()]


def key_row(row: Row) -> KeyRow:
    """Return the key of a row that has all of its columns."""
    return KeyRow(**{name: RULES[name].load(row[name]) if name in RULES else row[name] for name in _FIELDS})


def _audited(key: KeyRow) -> dict[str, object]:
    return {
        "account_id": key.account_id,
        "name": key.name,
        "prefix": key.prefix,
        **rules_shown(key),
        "revoked_at": key.revoked_at and rfc3339(key.revoked_at),
    }


_OF_PRINCIPAL: Final = {field.name for field in fields(Principal)}.intersection(field.name for field in fields(KeyRow))
"""Fields of a key that a principal has by the same name."""
READ: Final = _query("keys_principal")
READ_ACCOUNT: Final = _query("accounts_principal")


_SERVICE: Final = SERVICE_KEY.encode()


def service_name(account_id: str, service: str) -> bytes:
    """Return the name of an account's principal for a service, in place of a secret's digest: no service has a space in
    its name, and one digest of 2^64 begins as all of these names do."""
    return f"{SERVICE_KEY}{service} {account_id}".encode()


class Principals:
    """Reads principals; methods raise `DatabaseError`. `default_plan` stands in for a plan that is no longer
    configured. `follow` gets the revision of the plans that was in force when a principal was read, and makes sure that
    `plans` are no older.

    Raises `ValueError` for plans without the default one.
    """

    def __init__(
        self,
        database: Database,
        plans: Plans,
        default_plan: str = DEFAULT_PLAN,
        follow: Callable[[int | None], Awaitable[None]] | None = None,
    ) -> None:
        if default_plan not in plans:
            raise ValueError(f"the plans must have {default_plan!r}, the default")
        self._database = database
        self._plans = plans
        self._default_plan = default_plan
        self._follow = follow

    async def load(self, name: bytes) -> Principal | None:
        """Return the principal of a secret's SHA-256, or of what `service_name` gives; None if unknown."""
        if not name.startswith(_SERVICE):
            return await self.by_digest(name)
        service, _, account_id = name.removeprefix(_SERVICE).decode().partition(" ")
        return await self.of_service(account_id, service)

    async def by_digest(self, digest: bytes) -> Principal | None:
        """Return the principal of a secret's SHA-256, also of a revoked key or a closed account; None if unknown."""
        return await self._read(digest, None)

    async def by_key_id(self, key_id: str) -> Principal | None:
        """Return the principal of a key's id, as `by_digest`."""
        return await self._read(None, key_id)

    async def of_service(self, account_id: str, service: str) -> Principal | None:
        """Return the principal of an account that another service meters, which has no key; None if unknown."""
        row = await self._database.row(READ_ACCOUNT, account_id)
        if row is None:
            return None
        if self._follow is not None:
            await self._follow(row["plans_revision"])
        return _of_service(row, service, _plan_of(row, self._plans, self._plans[self._default_plan]))

    async def _read(self, digest: bytes | None, key_id: str | None) -> Principal | None:
        row = await self._database.row(READ, digest, key_id)
        if row is None:
            return None
        if self._follow is not None:
            await self._follow(row["plans_revision"])
        return _principal(row, self._plans, self._plans[self._default_plan])


def _plan_of(row: Row, plans: Plans, default: Plan) -> Plan:
    plan = plans.get(row["plan"])
    if plan is None:
        _log.error(
            "account %s has plan %r, which is not configured: %r applies", row["account_id"], row["plan"], default.id
        )
    return plan or default


def _of_account(row: Row, plan: Plan) -> dict[str, Any]:
    """Return what the account of a row gives to a principal."""
    return {
        "account_name": row["account_name"],
        "account_version": row["account_version"],
        "status": row["status"],
        "past_due_since_s": _unix(row["past_due_since"]),
        "credit_limit_nano": row["credit_limit_nano"],
        "account_quotas": parse_quotas(row["account_quotas"]),
        "plan": plan,
    }


def _of_service(row: Row, service: str, plan: Plan) -> Principal:
    return Principal(
        **_of_account(row, plan),
        account_id=row["account_id"],
        key_id=SERVICE_KEY + service,
        key_version=1,
        key_name=service,
        key_prefix="",
        user_id=None,
        scopes=frozenset(),
        models=None,
        key_quotas=(),
        max_parallel_requests=None,
        tags={},
        created_at_s=0.0,
        expires_at_s=None,
        revoked_at_s=None,
    )


def _principal(row: Row, plans: Plans, default: Plan) -> Principal:
    key = key_row(row)
    same = {name: getattr(key, name) for name in _OF_PRINCIPAL}
    return Principal(
        **same
        | _of_account(row, _plan_of(row, plans, default))
        | {
            "key_id": key.id,
            "key_version": key.version,
            "key_name": key.name,
            "key_prefix": key.prefix,
            "scopes": frozenset(key.scopes),
            "key_quotas": key.quotas,
            "created_at_s": key.created_at.timestamp(),
            "expires_at_s": _unix(key.expires_at),
            # Revoked by Postgres's clock is revoked for ever: no gateway's clock that runs behind may think otherwise.
            "revoked_at_s": 0.0 if row["revoked"] else _unix(key.revoked_at),
        }
    )


def _unix(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
