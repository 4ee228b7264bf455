"""Principals in Postgres: who is behind a secret, a key's id or a service, as it is now.

This file owns that the secret before a key's rotation is worth nothing once its time is over, and that what Postgres
has revoked is revoked whatever a gateway's clock says.
"""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

from billing.database.connection import Database, Row, queries
from billing.keys.keys import key_row
from billing.permissions import PROXY
from billing.plans import API_ACCESS, DEFAULT_PLAN, Plan, Plans
from billing.principals import SERVICE_KEY, Principal
from billing.quotas import parse_quotas
from billing.schemas.keys import RULES, KeyRow, KeyRules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

_log = logging.getLogger(__name__)
_query = queries("billing.keys")
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
