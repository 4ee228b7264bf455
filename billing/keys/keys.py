"""API keys in Postgres: made, listed, changed, revoked, and read as principals.

This file owns the rule that a secret leaves it once, from `create`, and that each change of a key raises its version in
the same statement. Only a secret's SHA-256 is stored. What a key may say is in `billing.keys.rows`.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, cast

from billing import audit
from billing.accounts.accounts import AccountNotFound
from billing.database.connection import Connection, Database, Row, affected, queries
from billing.effects import Effects
from billing.keys.rows import KeyChanges, KeyNotFound, KeyRow, check_models, check_parallel, check_scopes, check_tags
from billing.keys.secrets import DEFAULT_SCOPES, new_secret, secret_digest, shown_prefix
from billing.pages import BEFORE_ALL, Page, page_of
from billing.plans import DEFAULT_PLAN, Plan, Plans
from billing.principals import Principal
from billing.quotas import Quota, check_quotas, parse_quotas, quota_json
from billing.times import rfc3339

ID_PREFIX: Final = "key_"

_log = logging.getLogger(__name__)
_query = queries("billing.ledger")


class ApiKeys:
    """Makes, reads, changes and revokes keys. Methods raise `rows.ApiKeyError`, `database.connection.DatabaseError`."""

    def __init__(
        self,
        database: Database,
        plans: Plans,
        effects: Effects,
        new_id: Callable[[], str],
        choice: Callable[[str], str] = secrets.choice,
        default_plan: str = DEFAULT_PLAN,
        follow: Callable[[int | None], Awaitable[None]] | None = None,
    ) -> None:
        """`new_id` makes ULIDs that rise with time; `choice` picks a character of a secret at random. `default_plan`
        stands in for a plan that is no longer configured. `follow` is told the revision of the plans that was in force
        when a principal was read, and sees to it that `plans` are no older.

        Raises `ValueError` for plans without the default one.
        """
        if default_plan not in plans:
            raise ValueError(f"the plans must have {default_plan!r}, the default")
        self._default_plan = default_plan
        self._follow = follow
        self._database, self._plans, self._effects = database, plans, effects
        self._new_id, self._choice = new_id, choice

    async def create(
        self,
        account_id: str,
        name: str,
        *,
        scopes: tuple[str, ...] = DEFAULT_SCOPES,
        models: tuple[str, ...] | None = None,
        quotas: tuple[Quota, ...] = (),
        max_parallel_requests: int | None = None,
        expires_at: datetime | None = None,
        tags: Mapping[str, str] | None = None,
        user_id: str | None = None,
        actor: str = audit.ADMIN,
    ) -> tuple[KeyRow, str]:
        """A new key and its secret, which can't be read again. Raises `accounts.AccountNotFound`."""
        check_scopes(scopes)
        check_models(models)
        check_tags(tags or {})
        check_parallel(max_parallel_requests)
        secret = new_secret(self._choice)
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                _query("keys_create"),
                ID_PREFIX + self._new_id(),
                account_id,
                user_id,
                name,
                shown_prefix(secret),
                secret_digest(secret),
                scopes,
                models,
                [quota_json(quota) for quota in check_quotas(quotas)],
                max_parallel_requests,
                expires_at,
                dict(tags or {}),
            )
            if row is None:
                raise AccountNotFound(f"There is no account {account_id!r}.")
            key = _key(row)
            await audit.record(connection, actor, "key.create", key.id, None, _audited(key))
        return key, secret

    async def get(self, key_id: str) -> KeyRow:
        """The key, also when it is revoked."""
        row = await self._database.row(_query("keys_get"), key_id)
        if row is None:
            raise _not_found(key_id)
        return _key(row)

    async def principal_by_digest(self, digest: bytes) -> Principal | None:
        """The principal behind a secret's SHA-256, also of a revoked key or a closed account; None if unknown."""
        return await self._principal(digest, None)

    async def principal_by_key_id(self, key_id: str) -> Principal | None:
        """The same by the key's id."""
        return await self._principal(None, key_id)

    async def _principal(self, digest: bytes | None, key_id: str | None) -> Principal | None:
        row = await self._database.row(_query("keys_principal"), digest, key_id)
        if row is None:
            return None
        if self._follow is not None:
            await self._follow(row["plans_revision"])
        return _principal(row, self._plans, self._plans[self._default_plan])

    async def page(self, account_id: str | None, limit: int, after: str | None = None) -> Page[KeyRow]:
        """Keys of one account, or of all, newest first; `after` is the id that ended the page before."""
        rows = await self._database.rows(_query("keys_page"), account_id, after or BEFORE_ALL, limit + 1)
        return page_of([_key(row) for row in rows], limit, lambda key: key.id)

    async def update(self, key_id: str, changes: KeyChanges, *, actor: str = audit.ADMIN) -> KeyRow:
        """Change what is given. A key that already says all of it stays at its version."""
        async with self._database.transaction() as connection:
            before = await _locked(connection, key_id)
            wanted = replace(before, **changes)
            if wanted == before:
                return before
            row = await connection.fetchrow(
                _query("keys_update"),
                key_id,
                wanted.name,
                wanted.scopes,
                wanted.models,
                [quota_json(quota) for quota in wanted.quotas],
                wanted.max_parallel_requests,
                wanted.expires_at,
                dict(wanted.tags),
            )
            after = _key(cast(Row, row))
            await audit.record(connection, actor, "key.update", key_id, _audited(before), _audited(after))
        await self._effects.key_changed(key_id, after.account_id)
        return after

    async def revoke(self, key_id: str, *, actor: str = audit.ADMIN) -> KeyRow:
        """Make a key invalid at once. One that is already revoked stays as it is."""
        async with self._database.transaction() as connection:
            before = await _locked(connection, key_id)
            row = await connection.fetchrow(_query("keys_revoke"), key_id)
            if row is None:
                return before
            after = _key(row)
            await audit.record(connection, actor, "key.revoke", key_id, _audited(before), _audited(after))
        await self._effects.key_changed(key_id, after.account_id)
        return after

    async def touch_last_used(self, used: Iterable[tuple[str, float]]) -> int:
        """Note when keys were last used, in Unix seconds; not a change of theirs. Answers how many were found."""
        latest: dict[str, float] = {}
        for key_id, at_s in used:
            latest[key_id] = max(at_s, latest.get(key_id, at_s))
        times = [datetime.fromtimestamp(at_s, UTC) for at_s in latest.values()]
        return affected(await self._database.execute(_query("keys_touch"), list(latest), times))


async def _locked(connection: Connection, key_id: str) -> KeyRow:
    row = await connection.fetchrow(_query("keys_lock"), key_id)
    if row is None:
        raise _not_found(key_id)
    return _key(row)


def _not_found(key_id: str) -> KeyNotFound:
    return KeyNotFound(f"There is no key {key_id!r}.")


def _key(row: Row) -> KeyRow:
    return KeyRow(
        id=row["id"],
        account_id=row["account_id"],
        user_id=row["user_id"],
        name=row["name"],
        prefix=row["prefix"],
        scopes=tuple(row["scopes"]),
        models=None if row["models"] is None else tuple(row["models"]),
        quotas=parse_quotas(row["quotas"]),
        max_parallel_requests=row["max_parallel_requests"],
        tags=row["tags"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
        version=row["version"],
    )


def _principal(row: Row, plans: Plans, default: Plan) -> Principal:
    plan = plans.get(row["plan"])
    if plan is None:
        _log.error(
            "account %s has plan %r, which is not configured: %r applies", row["account_id"], row["plan"], default.id
        )
        plan = default
    return Principal(
        account_id=row["account_id"],
        account_name=row["account_name"],
        account_version=row["account_version"],
        status=row["status"],
        past_due_since_s=_unix(row["past_due_since"]),
        credit_limit_nano=row["credit_limit_nano"],
        account_quotas=parse_quotas(row["account_quotas"]),
        plan=plan,
        key_id=row["key_id"],
        key_version=row["key_version"],
        key_name=row["key_name"],
        key_prefix=row["key_prefix"],
        user_id=row["user_id"],
        scopes=frozenset(row["scopes"]),
        models=None if row["models"] is None else tuple(row["models"]),
        key_quotas=parse_quotas(row["key_quotas"]),
        max_parallel_requests=row["max_parallel_requests"],
        tags=row["tags"],
        created_at_s=row["created_at"].timestamp(),
        expires_at_s=_unix(row["expires_at"]),
        # Revoked by Postgres's clock is revoked for ever: no gateway's clock that runs behind may think otherwise.
        revoked_at_s=0.0 if row["revoked"] else _unix(row["revoked_at"]),
    )


def _unix(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _audited(key: KeyRow) -> dict[str, object]:
    return {
        "account_id": key.account_id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "models": key.models,
        "quotas": [quota_json(quota) for quota in key.quotas],
        "max_parallel_requests": key.max_parallel_requests,
        "tags": key.tags,
        "expires_at": key.expires_at and rfc3339(key.expires_at),
        "revoked_at": key.revoked_at and rfc3339(key.revoked_at),
    }
