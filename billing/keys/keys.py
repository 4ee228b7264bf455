"""API keys in Postgres: made, listed, changed, rotated and revoked.

This file owns the rule that a secret leaves it once, from `create` or `rotate`, and that each change of a key raises
its version in the same statement. Only a secret's SHA-256 is stored. What a key may say is in `billing.schemas.keys`.

Principals in Postgres: who is behind a secret, a key's id or a service, as it is now.

This file owns that the secret before a key's rotation is worth nothing once its time is over, and that what Postgres
has revoked is revoked whatever a gateway's clock says.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from billing import audit
from billing.database.connection import Connection, Database, Row, affected, queries
from billing.errors import AccountNotFound
from billing.keys.secrets import new_secret, secret_digest, shown_prefix
from billing.notices.emit import emit
from billing.pages import BEFORE_ALL, Page, page_of
from billing.permissions import PROXY
from billing.plans import API_ACCESS, DEFAULT_PLAN, Plan, Plans
from billing.principals import SERVICE_KEY, Principal
from billing.quotas import parse_quotas
from billing.schemas.keys import RULES, KeyConflict, KeyNotFound, KeyRow, KeyRules, ScopeWithheld, rules_shown
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.change_notifier import ChangeNotifier
    from billing.notices.mail_templates import NoticeType

ID_PREFIX: Final = "key_"

# Changes that customers are notified of.
_NOTICES: Final[Mapping[str, NoticeType]] = {
    "key.create": "key.created",
    "key.revoke": "key.revoked",
    "key.leaked": "key.leaked",
}
_query = queries("billing.keys")
_FIELDS: Final = tuple(field.name for field in fields(KeyRow))


def _of_rules(name: str, first: int) -> str:
    """Return a query with the columns of `RULES` in it, and their parameters from `$first` on."""
    numbers = range(first, first + len(RULES))
    return _query(name).format(columns=", ".join(RULES), values=", ".join(f"${number}" for number in numbers))


# Which scopes whoever makes or changes a key may give it. Asked first in the transaction, which it may refuse.
Grantable = Callable[[Connection], Awaitable[Collection[str]]]

_CREATE: Final = _of_rules("keys_create", 7)
_UPDATE: Final = _of_rules("keys_update", 3)


class ApiKeys:
    """Makes, reads, changes and revokes keys. Methods raise `ApiKeyError` and `DatabaseError`.

    With an `account_id`, a method knows the keys of that account alone: others are not found. With `grantable`, scopes
    that a key does not have yet are given it only where they are among these; None: any."""

    def __init__(
        self,
        database: Database,
        effects: ChangeNotifier,
        new_id: Callable[[], str],
        choice: Callable[[str], str] = secrets.choice,
    ) -> None:
        """`new_id` makes ULIDs that rise with time; `choice` picks a character of a secret at random."""
        self._database, self._effects = database, effects
        self._new_id, self._choice = new_id, choice

    async def create(
        self,
        account_id: str,
        name: str,
        *,
        user_id: str | None = None,
        actor: audit.Actor = audit.ADMIN,
        grantable: Grantable | None = None,
        most: int | None = None,
        **rules: Any,
    ) -> tuple[KeyRow, str]:
        """Create a key and return it with its secret, which can't be read again. `rules` are fields of `KeyRules`;
        `most` is how many keys that work the user may have in this account, with the new one.

        Raises `AccountNotFound`, `KeyRefused`, `KeyConflict`, `ScopeWithheld`, `QuotaError`, and `TypeError` for a rule
        that there is not.
        """
        wanted = KeyRules(**rules)
        key_id, (secret, prefix, digest) = ID_PREFIX + self._new_id(), self._new_secret()
        async with self._database.transaction() as connection:
            _check_given(None if grantable is None else await grantable(connection), wanted.scopes)
            if most is not None:
                await _check_room(connection, account_id, user_id, most)
            made = key_id, account_id, user_id, name, prefix, digest, *_stored(wanted)
            row = await connection.fetchrow(_CREATE, *made)
            if row is None:
                raise AccountNotFound(f"There is no account {account_id!r}.")
            key = key_row(row)
            await _record(connection, actor, "key.create", None, key)
        return key, secret

    def _new_secret(self) -> tuple[str, str, bytes]:
        """Return a new secret, the prefix that is shown of it, and the digest that is stored."""
        secret = new_secret(self._choice)
        return secret, shown_prefix(secret), secret_digest(secret)

    async def get(self, key_id: str, account_id: str | None = None) -> KeyRow:
        """Return the key, also when it is revoked."""
        return _found(await self._database.row(_query("keys_get"), key_id), key_id, account_id)

    async def page(
        self, account_id: str | None, limit: int, after: str | None = None, user_id: str | None = None
    ) -> Page[KeyRow]:
        """Return keys of one account, or of all, and of one user there, newest first; `after` is the id that ended the
        page before."""
        rows = await self._database.rows(_query("keys_page"), account_id, after or BEFORE_ALL, limit + 1, user_id)
        return page_of([key_row(row) for row in rows], limit, lambda key: key.id)

    async def names(self, account_id: str, key_ids: Collection[str]) -> dict[str, str]:
        """Return what keys of an account are called, by their ids; others are left out."""
        rows = await self._database.rows(_query("keys_names"), account_id, list(key_ids))
        return {row["id"]: row["name"] for row in rows}

    async def update(
        self,
        key_id: str,
        changes: Mapping[str, Any],
        *,
        account_id: str | None = None,
        actor: audit.Actor = audit.ADMIN,
        grantable: Grantable | None = None,
    ) -> KeyRow:
        """Change `name`, or fields of `KeyRules`. A key that already says all of it stays at its version.

        Raises `KeyNotFound`, `KeyRefused`, `ScopeWithheld`, `QuotaError`.
        """
        async with self._database.transaction() as connection:
            given = None if grantable is None else await grantable(connection)
            before = await _locked(connection, key_id, account_id)
            wanted = replace(before, **changes)
            if wanted == before:
                return before
            _check_given(given, (scope for scope in wanted.scopes if scope not in before.scopes))
            row = await connection.fetchrow(_UPDATE, key_id, wanted.name, *_stored(wanted))
            after = key_row(cast("Row", row))
            await _record(connection, actor, "key.update", before, after)
        await self._effects.key_changed(key_id, after.account_id)
        return after

    async def revoke(self, key_id: str, *, account_id: str | None = None, actor: audit.Actor = audit.ADMIN) -> KeyRow:
        """Make a key invalid at once. One that is already revoked stays as it is."""
        async with self._database.transaction() as connection:
            before = await _locked(connection, key_id, account_id)
            row = await connection.fetchrow(_query("keys_revoke"), key_id)
            if row is None:
                return before
            after = key_row(row)
            await _record(connection, actor, "key.revoke", before, after)
        await self._effects.key_changed(key_id, after.account_id)
        return after

    async def rotate(
        self, key_id: str, grace_s: int = 0, *, account_id: str | None = None, actor: audit.Actor = audit.ADMIN
    ) -> tuple[KeyRow, str]:
        """Give a key a new secret and return both; the one that it has stays valid for `grace_s`, and the one before
        that for no longer. Raises `KeyNotFound`, and `KeyConflict` for a key that was revoked."""
        secret, prefix, digest = self._new_secret()
        async with self._database.transaction() as connection:
            before = await _locked(connection, key_id, account_id)
            if before.revoked_at is not None:
                raise KeyConflict("This key was revoked: create another one.")
            row = await connection.fetchrow(_query("keys_rotate"), key_id, digest, prefix, grace_s)
            after = key_row(cast("Row", row))
            await _record(connection, actor, "key.rotate", before, after)
        await self._effects.key_changed(key_id, after.account_id)
        return after, secret

    async def revoke_leaked(
        self, secret: str, *, actor: audit.Actor, tell: Callable[[Connection, KeyRow], Awaitable[None]]
    ) -> KeyRow | None:
        """Revoke the key of a secret that somebody has found; where it is the secret before a rotation, that alone
        ends. `tell` is called in the transaction, with the key. None: no key that works has this secret."""
        digest = secret_digest(secret)
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("keys_lock_secret"), digest)
            if row is None:
                return None
            before = key_row(row)
            after = key_row(cast("Row", await connection.fetchrow(_query("keys_leaked"), before.id, digest)))
            await _record(connection, actor, "key.leaked", before, after)
            await tell(connection, after)
        await self._effects.key_changed(after.id, after.account_id)
        return after

    async def touch_last_used(self, used: Iterable[tuple[str, float]]) -> int:
        """Note when keys were last used, in Unix seconds, and return how many were found; their versions stay."""
        latest: dict[str, float] = {}
        for key_id, at_s in used:
            latest[key_id] = max(at_s, latest.get(key_id, at_s))
        times = [datetime.fromtimestamp(at_s, UTC) for at_s in latest.values()]
        return affected(await self._database.execute(_query("keys_touch"), list(latest), times))


async def confine_keys(
    connection: Connection, account_id: str, user_id: str, lost: Collection[str] | None, ending: str, actor: audit.Actor
) -> list[str]:
    """Take scopes from every key of a user in an account, in the caller's transaction, and return the ids of those that
    changed, of which the effects are to be told after it. A key that loses `ending`, or all that it has, is revoked;
    `lost` None: every key is."""
    changed = []
    for row in await connection.fetch(_query("keys_of_user"), account_id, user_id):
        before = key_row(row)
        scopes = () if lost is None else tuple(scope for scope in before.scopes if scope not in lost)
        if scopes == before.scopes:
            continue
        ends = not scopes or (ending in before.scopes and ending not in scopes)
        if ends:
            told = await connection.fetchrow(_query("keys_revoke"), before.id)
        else:
            told = await connection.fetchrow(_UPDATE, before.id, before.name, *_stored(replace(before, scopes=scopes)))
        await _record(connection, actor, "key.revoke" if ends else "key.update", before, key_row(cast("Row", told)))
        changed.append(before.id)
    return changed


async def _check_room(connection: Connection, account_id: str, user_id: str | None, most: int) -> None:
    """Reject one key more of a user who has `most`, or as many as their group allows. Raises `KeyConflict`."""
    room = cast("Row", await connection.fetchrow(_query("keys_room"), account_id, user_id))
    if room["allowed"] is not None and room["made"] >= room["allowed"] < most:
        raise KeyConflict(
            f"Your group may have {room['allowed']} keys: revoke one that is not used, or ask an owner of the "
            "organization, whose rules for groups say so."
        )
    if room["made"] >= most:
        raise KeyConflict(f"There are {most} keys already, which is the most: revoke one that is not used.")


def _check_given(given: Collection[str] | None, scopes: Iterable[str]) -> None:
    """Reject a scope that may not be given; None: any may. Raises `ScopeWithheld`."""
    for scope in scopes:
        if given is not None and scope not in given:
            raise ScopeWithheld(scope)


async def _record(
    connection: Connection, actor: audit.Actor, action: str, before: KeyRow | None, after: KeyRow
) -> None:
    change = None if before is None else _audited(before), _audited(after)
    await audit.record(connection, actor, action, after.id, *change, account_id=after.account_id, user_id=after.user_id)
    notice = _NOTICES.get(action)
    if notice is not None:
        told = {"key_id": after.id, "name": after.name, "prefix": after.prefix, "user_id": after.user_id}
        await emit(connection, after.account_id, notice, told)


async def _locked(connection: Connection, key_id: str, account_id: str | None) -> KeyRow:
    return _found(await connection.fetchrow(_query("keys_lock"), key_id), key_id, account_id)


def _found(row: Row | None, key_id: str, account_id: str | None) -> KeyRow:
    if row is None or account_id not in (None, row["account_id"]):
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
        "previous_until": key.previous_until and rfc3339(key.previous_until),
    }


_log = logging.getLogger(__name__)
# Fields of a key that a principal has by the same name.
_OF_PRINCIPAL: Final = {field.name for field in fields(Principal)}.intersection(field.name for field in fields(KeyRow))
_UNBOUND: Final = KeyRules()
_RULES_OF_PRINCIPAL: Final = _OF_PRINCIPAL.intersection(RULES) - {"scopes"}
READ: Final = _query("keys_principal")
READ_ACCOUNT: Final = _query("accounts_principal")


_SERVICE: Final = SERVICE_KEY.encode()


def service_name(account_id: str, service: str, key_id: str | None = None) -> bytes:
    """Return the name of an account's principal for a service, or of that of the account's key, in place of a secret's
    digest: no service has a space in its name, and one digest of 2^64 begins as all of these names do."""
    return " ".join((SERVICE_KEY + service, account_id, *(() if key_id is None else (key_id,)))).encode()


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
        service, account_id, *key_id = name.removeprefix(_SERVICE).decode().split(" ", 2)
        return await self.of_service(account_id, service, *key_id)

    async def by_digest(self, digest: bytes) -> Principal | None:
        """Return the principal of a secret's SHA-256, also of a revoked key or a closed account; None if unknown."""
        return await self._read(digest, None)

    async def by_key_id(self, key_id: str) -> Principal | None:
        """Return the principal of a key's id, as `by_digest`."""
        return await self._read(None, key_id)

    async def of_service(self, account_id: str, service: str, key_id: str | None = None) -> Principal | None:
        """Return the principal of an account that another service meters, which has no key, or that of the account's
        key; None if unknown. Any number of events may be under way at once."""
        if key_id is not None:
            found = await self.by_key_id(key_id)
            if found is None or found.account_id != account_id:
                return None
            plan = replace(found.plan, max_parallel_requests=None)
            return replace(found, plan=plan, max_parallel_requests=None, kept={})
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
    """Return the principal of an account for a service, of whose events any number may be under way at once."""
    return Principal(
        **_of_account(row, replace(plan, max_parallel_requests=None)),
        account_id=row["account_id"],
        key_id=SERVICE_KEY + service,
        key_version=1,
        key_name=service,
        key_prefix="",
        user_id=None,
        scopes=frozenset(),
        key_quotas=(),
        created_at_s=0.0,
        expires_at_s=None,
        revoked_at_s=None,
        **{name: getattr(_UNBOUND, name) for name in _RULES_OF_PRINCIPAL},
    )


def _principal(row: Row, plans: Plans, default: Plan) -> Principal:
    key = key_row(row)
    same = {name: getattr(key, name) for name in _OF_PRINCIPAL}
    plan = _plan_of(row, plans, default)
    withheld = {PROXY} if plan.feature(API_ACCESS) is False else set[str]()
    return Principal(
        **same
        | _of_account(row, plan)
        | {
            "key_id": key.id,
            "key_version": key.version,
            "key_name": key.name,
            "key_prefix": key.prefix,
            "scopes": frozenset(key.scopes) - withheld,
            "key_quotas": key.quotas,
            "user_quotas": parse_quotas(row["user_quotas"] or ()),
            "created_at_s": key.created_at.timestamp(),
            "expires_at_s": _first(key.expires_at, row["secret_until"]),
            # Revoked by Postgres's clock is revoked for ever: no gateway's clock that runs behind may think otherwise.
            "revoked_at_s": 0.0 if row["revoked"] else _unix(key.revoked_at),
        }
    )


def _first(*times: datetime | None) -> float | None:
    """Return the first of some times in Unix seconds; None is never."""
    return min((at.timestamp() for at in times if at is not None), default=None)


def _unix(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
