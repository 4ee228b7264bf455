"""Balances by time and threshold: credit that expires, and alerts that a balance is low.

What is left of a lot at its time is taken back, once, also where no gateway ran at that time. What requests that still
run have reserved, and debits that are on their way to Postgres, were admitted while the credit was there: so lots of an
account that has any are left for up to PATIENCE, and are not used longer for it than that.

An alert is sent once for each time that a balance falls below its threshold.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.accounts.grants import PROMOTIONS, REVENUE, Entry, find_lot, settle_lots
from billing.database.connection import Database, queries
from billing.errors import AccountNotFound
from billing.money import format_usd
from billing.notices.emit import emit

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.accounts.grants import Grants
    from billing.change_notifier import ChangeNotifier


logger = logging.getLogger(__name__)

# Of the idempotency keys of these transfers: `expiry:LOT`.
SCOPE: Final = "lots"
# As long as a request may take by default (`max_request_s`).
PATIENCE: Final = timedelta(hours=1)
# Lots of one round.
MOST: Final = 200
# Accounts that one round reads, from where the last one ended.
ACCOUNTS_READ: Final = 5_000
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC), ""

_query = queries("billing.payments")
_accounts = queries("billing.accounts")


class Expiry:
    """Lets lots expire. `now` gives an aware time."""

    def __init__(
        self, database: Database, grants: Grants, effects: ChangeNotifier, now: Callable[[], datetime]
    ) -> None:
        self._database, self._grants, self._effects = database, grants, effects
        self._now, self._after = now, _FIRST

    async def round(self) -> int:
        """Look at `MOST` lots that are due, from where the last round ended, and let those expire that are not in use;
        return how many have. Raises `DatabaseError`."""
        now = self._now()
        due = await self._database.rows(_query("lots_due"), now, *self._after, MOST)
        self._after = (due[-1]["expires_at"], due[-1]["id"]) if len(due) == MOST else _FIRST
        expired = 0
        for row in due:
            account_id = row["account_id"]
            if row["expires_at"] + PATIENCE > now and await self._in_use(account_id):
                continue
            taken_nano = await self._expire(account_id, row["id"])
            if taken_nano:
                expired += 1
                await self._effects.balance_changed(account_id)
                logger.info("%s: credit of the lot %s has expired", account_id, row["id"])
        return expired

    async def _in_use(self, account_id: str) -> bool:
        """Return whether requests are under way that were admitted on the account's balance."""
        live = await self._effects.live_balance(account_id)
        if live is None:
            return False
        balance_nano = await self._database.value("SELECT balance_nano FROM accounts WHERE id = $1", account_id)
        return live.held_nano > 0 or live.balance_nano != balance_nano

    async def _expire(self, account_id: str, lot_id: str) -> int:
        """Take what is left of a lot; return how much that was, in nano-USD. What was paid for goes to the revenue."""
        async with self._database.transaction() as connection:
            await connection.fetchrow(_accounts("accounts_lock"), account_id)
            lot = await find_lot(connection, account_id, lot_id)
            if not lot.left_nano:
                await settle_lots(connection, account_id)
                return 0
            source = PROMOTIONS if lot.terms.promotional else REVENUE
            named = SCOPE, f"expiry:{lot.id}", f"credit of {lot.created_at:%Y-%m-%d}"
            entry = Entry(account_id, -lot.left_nano, source, "expiry", *named, of_lot=lot.id)
            result = await self._grants.record(connection, entry, audit.SYSTEM)
            return 0 if result.replayed else lot.left_nano


@dataclass(frozen=True, slots=True)
class Alert:
    """Below what an account is told: its own threshold, or else the default; and whether it is armed."""

    threshold_nano: int
    is_default: bool
    armed: bool


@dataclass
class Alerts:
    """Keeps thresholds and sends alerts. Methods raise `DatabaseError`. `default_nano` is the threshold of accounts
    that have none of their own; 0: they are alerted of debt alone.

    What counts is what may be spent: the balance and the credit limit. An account is armed when it is seen above, and
    told when it is seen below and armed, so that a new account without credit is told nothing. A round looks at a
    bounded number of accounts by their ids and goes on where the last one ended: no index follows balances, which
    every debit changes."""

    database: Database
    default_nano: int
    _after: str = field(default="", init=False)

    async def get(self, account_id: str) -> Alert:
        """Return an account's alert."""
        row = await self.database.row(_query("alerts_get"), account_id)
        own = None if row is None else row["threshold_nano"]
        armed = row is not None and row["armed"]
        return Alert(self.default_nano if own is None else own, own is None, armed)

    async def put(self, account_id: str, threshold_nano: int | None, *, actor: audit.Actor) -> Alert:
        """Set an account's threshold; None: the default again. Raises `AccountNotFound`."""
        before = await self.get(account_id)
        async with self.database.transaction() as connection:
            if await connection.fetchval(_query("alerts_put"), account_id, threshold_nano) is None:
                raise AccountNotFound(f"There is no account {account_id!r}.")
            after = {"threshold_usd": None if threshold_nano is None else format_usd(threshold_nano)}
            was = {"threshold_usd": None if before.is_default else format_usd(before.threshold_nano)}
            await audit.record(connection, actor, "account.alert", account_id, was, after, account_id=account_id)
        return await self.get(account_id)

    async def round(self) -> int:
        """Look at `ACCOUNTS_READ` accounts; return how many were told that their balance is low."""
        async with self.database.transaction() as connection:
            found = await connection.fetchrow(_query("alerts_look"), self._after, ACCOUNTS_READ, self.default_nano)
            crossed = [] if found is None else found["crossed"]
            for each in crossed:
                data = {
                    "available_usd": format_usd(each["available_nano"]),
                    "threshold_usd": format_usd(each["threshold_nano"]),
                }
                await emit(connection, each["account_id"], "balance.low", data)
        self._after = "" if found is None else found["place"]
        return len(crossed)
