"""Accounts: who pays. This file owns the rule that each change of an account raises its version in the same statement.

A change is one transaction: the row is locked and changed, the audit log gets what it said before and after; the change
notifier is called after the commit. The balance is not changed here but by `accounts.grants` and the ledger.

An account is suspended for as long as there is a cause, and several may stand at once: the end of one, such as a
dispute that was won, does not lift what an operator has ordered; an operator's other status lifts all of them. What an
account was before is told by `past_due_since`, which a suspension leaves as it is.

Limits of members are quotas of a user in an account, counted over all of the user's keys in it. A change raises the
account's version as well: admission then lets in nobody who does not know of it, and every gateway reads the account's
keys anew. A user is an id that keys name; it need not have a key yet.

AccountError
+-- AccountNotFound   no account has this id
+-- UnknownPlan       the configuration has no such plan
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack, cast

from billing import audit
from billing.database.connection import Connection, Database, Row, from_row, queries
from billing.errors import AccountError, AccountNotFound, MetergateError
from billing.money import MAX_NANO, check_bound, format_usd
from billing.pages import BEFORE_ALL, Page, page_of
from billing.plans import DEFAULT_PLAN, Plans, Status
from billing.quotas import Quota, check_quotas, parse_quotas, quota_json
from billing.times import zone_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from billing.change_notifier import ChangeNotifier

ID_PREFIX: Final = "acc_"
STATUSES: Final = ("active", "past_due", "suspended", "closed")
# The cause of a suspension that an operator has ordered.
OPERATOR: Final = "operator"
# Characters of a user's id.
MAX_USER_ID: Final = 255

_query = queries("billing.accounts")


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
    """Why it is suspended, such as `operator` or `dispute:ID` (`suspend`)."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}")
        if not 0 <= self.credit_limit_nano <= MAX_NANO:
            raise ValueError("credit_limit must not be below zero or beyond 2^53 - 1 nano-USD")
        check_bound(self.balance_nano)
        check_quotas(self.quotas)
        if self.tz is not None:
            zone_of(self.tz)


class AccountChanges(TypedDict, total=False):
    """What may be changed of an account."""

    name: str | None
    plan: str | None
    status: Status | None
    credit_limit_nano: int | None
    quotas: tuple[Quota, ...] | None
    tz: str | None


async def open_account(
    connection: Connection,
    new_id: Callable[[], str],
    name: str,
    plan: str,
    *,
    credit_limit_nano: int = 0,
    quotas: tuple[Quota, ...] = (),
    tz: str | None = None,
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
        async with self._database.transaction() as connection:
            return await open_account(
                connection,
                self._new_id,
                name,
                plan,
                credit_limit_nano=credit_limit_nano,
                quotas=quotas,
                tz=tz,
                actor=actor,
            )

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
        reason: str | None = None,
        actor: audit.Actor = audit.ADMIN,
        **changes: Unpack[AccountChanges],
    ) -> Account:
        """Change what is given; None leaves as it is, but clears `tz`. An account that already says all of it stays
        at its version. `reason` is for the audit log.

        Becoming `past_due` notes since when; any other status forgets it.
        """
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None or name == "tz"}
        if (plan := changes.get("plan")) is not None:
            self._check_plan(plan)
        async with self._database.transaction() as connection:
            before = await _locked(connection, account_id)
            if (status := changes.get("status")) is not None:
                given["suspended_for"] = causes_after(status, before.suspended_for)
            wanted = replace(before, **given)
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
    quotas, causes = parse_quotas(row["quotas"]), tuple(row["suspended_for"])
    return from_row(Account, row, quotas=quotas, suspended_for=causes)


async def _locked(connection: Connection, account_id: str) -> Account:
    row = await connection.fetchrow(_query("accounts_lock"), account_id)
    if row is None:
        raise _not_found(account_id)
    return _account(row)


def _audited(account: Account) -> dict[str, object]:
    return {
        "name": account.name,
        "plan": account.plan,
        "status": account.status,
        "credit_limit_usd": format_usd(account.credit_limit_nano),
        "quotas": [quota_json(quota) for quota in account.quotas],
        "tz": account.tz,
    }


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


class BadUserId(MetergateError, ValueError):
    """What can be no user's id."""

    kind, field = "invalid", "user_id"


@dataclass(frozen=True, slots=True)
class MemberQuotas:
    """What a user may use in an account, with all keys together; beside it what the keys, the account and the plan
    say."""

    account_id: str
    user_id: str
    quotas: tuple[Quota, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < len(self.user_id) <= MAX_USER_ID or not self.user_id.isprintable():
            raise BadUserId(f"a user's id has 1 to {MAX_USER_ID} printable characters")
        check_quotas(self.quotas)


class MemberLimits:
    """Reads and changes limits of members. Methods raise `AccountNotFound`, `BadUserId` and `DatabaseError`."""

    def __init__(self, database: Database, effects: ChangeNotifier) -> None:
        self._database, self._effects = database, effects

    async def get(self, account_id: str, user_id: str) -> MemberQuotas:
        """Return a user's limits; without quotas where nobody has set any."""
        asked = MemberQuotas(account_id, user_id)
        row = await self._database.row(_query("members_get"), account_id, asked.user_id)
        if row is None:
            raise _not_found(account_id)
        return MemberQuotas(account_id, user_id, parse_quotas(row["quotas"] or ()))

    async def page(self, account_id: str, limit: int, after: str | None = None) -> Page[MemberQuotas]:
        """Return the users of an account that have limits, by id; `after` is the id that ended the page before."""
        if await self._database.row(_query("accounts_get"), account_id) is None:
            raise _not_found(account_id)
        rows = await self._database.rows(_query("members_page"), account_id, after or "", limit + 1)
        found = [MemberQuotas(account_id, row["user_id"], parse_quotas(row["quotas"])) for row in rows]
        return page_of(found, limit, lambda member: member.user_id)

    async def set(
        self,
        account_id: str,
        user_id: str,
        quotas: tuple[Quota, ...],
        *,
        actor: audit.Actor = audit.ADMIN,
        check: Callable[[Connection], Awaitable[object]] | None = None,
    ) -> MemberQuotas:
        """Replace a user's quotas, none for no limit. What the user has used of a new one counts from its window's
        beginning on. Quotas that stand already change nothing. `check` is asked first in the transaction, which it may
        refuse. Raises `QuotaError`."""
        wanted = MemberQuotas(account_id, user_id, quotas)
        async with self._database.transaction() as connection:
            if check is not None:
                await check(connection)
            changed = await set_member_limits(connection, wanted, actor)
        if changed:
            await self._effects.account_changed(account_id)
        return wanted


async def set_member_limits(connection: Connection, wanted: MemberQuotas, actor: audit.Actor) -> bool:
    """Replace a user's quotas in the caller's transaction; return whether they were others, of which gateways are to be
    told after it. Raises `AccountNotFound`."""
    account_id, user_id = wanted.account_id, wanted.user_id
    await _locked(connection, account_id)
    row = await connection.fetchrow(_query("members_get"), account_id, user_id)
    before = parse_quotas((row and row["quotas"]) or ())
    if before == wanted.quotas:
        return False
    version = await connection.fetchval(_query("accounts_touch"), account_id)
    stored = [quota_json(quota) for quota in wanted.quotas]
    if stored:
        await connection.execute(_query("members_set"), account_id, user_id, stored, version)
    else:
        await connection.execute(_query("members_remove"), account_id, user_id)
    change = ({"quotas": [quota_json(quota) for quota in each]} for each in (before, wanted.quotas))
    subject = f"{account_id}/{user_id}"
    await audit.record(connection, actor, "member_limits.update", subject, *change, account_id=account_id)
    return True
