"""Limits of members: quotas of a user in an account, counted over all of the user's keys in it.

A change raises the account's version in the same transaction: admission then lets in nobody who does not know of it,
and every gateway reads the account's keys anew. A user is an id that keys name; it need not have a key yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.accounts.accounts import AccountNotFound
from billing.database.connection import Connection, Database, queries
from billing.errors import MetergateError
from billing.pages import Page, page_of
from billing.quotas import Quota, check_quotas, parse_quotas, quota_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from billing.change_notifier import ChangeNotifier

# Characters of a user's id.
MAX_USER_ID: Final = 255

_query = queries("billing.accounts")


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
            if await connection.fetchrow(_query("accounts_lock"), account_id) is None:
                raise _not_found(account_id)
            row = await connection.fetchrow(_query("members_get"), account_id, user_id)
            before = parse_quotas((row and row["quotas"]) or ())
            if before == wanted.quotas:
                return wanted
            await _store(connection, wanted)
            change = ({"quotas": [quota_json(quota) for quota in each]} for each in (before, wanted.quotas))
            subject = f"{account_id}/{user_id}"
            await audit.record(connection, actor, "member_limits.update", subject, *change, account_id=account_id)
        await self._effects.account_changed(account_id)
        return wanted


async def _store(connection: Connection, wanted: MemberQuotas) -> None:
    version = await connection.fetchval(_query("accounts_touch"), wanted.account_id)
    if wanted.quotas:
        stored = [quota_json(quota) for quota in wanted.quotas]
        await connection.execute(_query("members_set"), wanted.account_id, wanted.user_id, stored, version)
    else:
        await connection.execute(_query("members_remove"), wanted.account_id, wanted.user_id)


def _not_found(account_id: str) -> AccountNotFound:
    return AccountNotFound(f"There is no account {account_id!r}.")
