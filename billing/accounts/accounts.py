"""Accounts: who pays. This file owns the rule that each change of an account raises its version in the same statement.

A change is one transaction: the row is locked and changed, the audit log gets what it said before and after; the
effects are told after the commit. The balance is not changed here but by `ledger.grants` and `ledger.debits`.

AccountError
+-- AccountNotFound   no account has this id
+-- UnknownPlan       the configuration has no such plan
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from types import EllipsisType
from typing import TYPE_CHECKING, Final, cast

from billing import audit
from billing.accounts.suspensions import causes_after
from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.money import MAX_NANO, check_bound, format_usd
from billing.pages import BEFORE_ALL, Page, page_of
from billing.plans import DEFAULT_PLAN, Plans
from billing.principals import Status
from billing.quotas import Quota, check_quotas, parse_quotas, quota_json
from billing.times import zone_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.change_notifier import ChangeNotifier

ID_PREFIX: Final = "acc_"
STATUSES: Final = ("active", "past_due", "suspended", "closed")

_query = queries("billing.accounts")


class AccountError(MetergateError):
    """What was asked of an account can't be done. The message is fit for a reader."""


class AccountNotFound(AccountError):
    """No account has this id."""

    kind = "not_found"


class UnknownPlan(AccountError):
    """The configuration has no such plan."""

    kind, field = "invalid", "plan"


@dataclass(frozen=True, slots=True)
class Account:
    """A row of accounts. `credit_limit_nano` is how far below zero the balance may go; the balance is the ledger's."""

    id: str
    name: str
    plan: str
    status: Status
    past_due_since: datetime | None
    credit_limit_nano: int
    quotas: tuple[Quota, ...]
    payment_customer_id: str | None
    created_at: datetime
    balance_nano: int
    version: int
    tz: str | None = None
    """The IANA time zone in which its days and months are reported; None: UTC."""
    suspended_for: tuple[str, ...] = ()
    """Why it is suspended, such as `operator` or `dispute:ID` (`suspensions`)."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}")
        if not 0 <= self.credit_limit_nano <= MAX_NANO:
            raise ValueError("credit_limit must not be below zero or beyond 2^53 - 1 nano-USD")
        check_bound(self.balance_nano)
        check_quotas(self.quotas)
        if self.tz is not None:
            zone_of(self.tz)


async def open_account(
    connection: Connection,
    new_id: Callable[[], str],
    name: str,
    plan: str,
    credit_limit_nano: int = 0,
    quotas: tuple[Quota, ...] = (),
    tz: str | None = None,
    *,
    actor: audit.Actor,
) -> Account:
    """Make an account, active and with nothing on it, in the caller's transaction; that there is the plan, the caller
    knows. Raises `QuotaError`."""
    account_id = ID_PREFIX + new_id()
    stored = [quota_json(quota) for quota in check_quotas(quotas)]
    row = await connection.fetchrow(_query("accounts_create"), account_id, name, plan, credit_limit_nano, stored, tz)
    account = _account(cast("Row", row))
    change = None, _audited(account)
    await audit.record(connection, actor, "account.create", account_id, *change, account_id=account_id)
    return account


class Accounts:
    """Makes, reads and changes accounts. Methods raise `AccountError` and `database.connection.DatabaseError`."""

    def __init__(self, database: Database, plans: Plans, effects: ChangeNotifier, new_id: Callable[[], str]) -> None:
        """`new_id` makes ULIDs that rise with time."""
        self._database, self._plans, self._effects, self._new_id = database, plans, effects, new_id

    async def create(
        self,
        name: str,
        plan: str = DEFAULT_PLAN,
        credit_limit_nano: int = 0,
        quotas: tuple[Quota, ...] = (),
        *,
        tz: str | None = None,
        actor: audit.Actor = audit.ADMIN,
    ) -> Account:
        """Create an account, active and with nothing on it. Raises `UnknownPlan`, and `times.TimeError` for a `tz`
        that is no time zone."""
        self._check_plan(plan)
        if tz is not None:
            zone_of(tz)
        made = (self._new_id, name, plan, credit_limit_nano, quotas, tz)
        async with self._database.transaction() as connection:
            return await open_account(connection, *made, actor=actor)

    async def get(self, account_id: str) -> Account:
        """Return the account as Postgres has it."""
        row = await self._database.row(_query("accounts_get"), account_id)
        if row is None:
            raise _not_found(account_id)
        return _account(row)

    async def page(
        self, limit: int, after: str | None = None, *, search: str | None = None, status: str | None = None
    ) -> Page[Account]:
        """Return accounts, newest first, or those of a status, and with a text in their name or this id; `after` is the
        id that ended the page before."""
        rows = await self._database.rows(_query("accounts_page"), after or BEFORE_ALL, limit + 1, search, status)
        return page_of([_account(row) for row in rows], limit, lambda account: account.id)

    async def set_quotas(
        self, account_id: str, quotas: tuple[Quota, ...], *, actor: audit.Actor = audit.ADMIN
    ) -> Account:
        """Replace the account's own quotas."""
        return await self.update(account_id, quotas=quotas, actor=actor)

    async def update(
        self,
        account_id: str,
        *,
        name: str | None = None,
        plan: str | None = None,
        status: Status | None = None,
        credit_limit_nano: int | None = None,
        quotas: tuple[Quota, ...] | None = None,
        tz: str | EllipsisType | None = ...,
        reason: str | None = None,
        actor: audit.Actor = audit.ADMIN,
    ) -> Account:
        """Change what is given; None leaves as it is, but clears `tz`. An account that already says all of it stays
        at its version. `reason` is for the audit log.

        Becoming `past_due` notes since when; any other status forgets it.
        """
        if plan is not None:
            self._check_plan(plan)
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("accounts_lock"), account_id)
            if row is None:
                raise _not_found(account_id)
            before = _account(row)
            wanted = replace(
                before,
                name=before.name if name is None else name,
                plan=plan or before.plan,
                status=status or before.status,
                credit_limit_nano=before.credit_limit_nano if credit_limit_nano is None else credit_limit_nano,
                quotas=before.quotas if quotas is None else quotas,
                tz=before.tz if isinstance(tz, EllipsisType) else tz,
                suspended_for=before.suspended_for if status is None else causes_after(status, before.suspended_for),
            )
            if wanted == before:
                return before
            row = await connection.fetchrow(
                _query("accounts_update"),
                account_id,
                wanted.name,
                wanted.plan,
                wanted.status,
                wanted.credit_limit_nano,
                [quota_json(quota) for quota in wanted.quotas],
                wanted.tz,
                list(wanted.suspended_for),
            )
            after = _account(cast("Row", row))
            why = {} if reason is None else {"reason": reason}
            change = _audited(before), {**_audited(after), **why}
            await audit.record(connection, actor, "account.update", account_id, *change, account_id=account_id)
        await self._effects.account_changed(account_id)
        return after

    def _check_plan(self, plan: str) -> None:
        if plan not in self._plans:
            raise UnknownPlan(f"There is no plan {plan!r}; known are {', '.join(sorted(self._plans))}.")


def _not_found(account_id: str) -> AccountNotFound:
    return AccountNotFound(f"There is no account {account_id!r}.")


def _account(row: Row) -> Account:
    return Account(
        id=row["id"],
        name=row["name"],
        plan=row["plan"],
        status=row["status"],
        past_due_since=row["past_due_since"],
        credit_limit_nano=row["credit_limit_nano"],
        quotas=parse_quotas(row["quotas"]),
        payment_customer_id=row["payment_customer_id"],
        created_at=row["created_at"],
        balance_nano=row["balance_nano"],
        version=row["version"],
        tz=row["tz"],
        suspended_for=tuple(row["suspended_for"]),
    )


def _audited(account: Account) -> dict[str, object]:
    return {
        "name": account.name,
        "plan": account.plan,
        "status": account.status,
        "credit_limit_usd": format_usd(account.credit_limit_nano),
        "quotas": [quota_json(quota) for quota in account.quotas],
        "tz": account.tz,
    }
