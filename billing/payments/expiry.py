"""Expiry: what is left of a lot at its time is taken back, once, also where no gateway ran at that time.

What requests that still run have reserved, and debits that are on their way to Postgres, were admitted while the credit
was there: so lots of an account that has any are left for up to PATIENCE, and are not used longer for it than that.

Recovery ends plans in the same way, by the clock alone: one that was not paid for is taken back after its days of
grace. A payment brings it back at once, by what is then seen of the subscription (`billing.payments.subscriptions`).
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.accounts import lots
from billing.accounts.grants import PROMOTIONS, REVENUE, Entry
from billing.database.connection import Database, queries
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.accounts.grants import Grants
    from billing.change_notifier import ChangeNotifier
    from billing.database.connection import Database
    from billing.payments.subscriptions import Subscriptions


logger = logging.getLogger(__name__)

# Of the idempotency keys of these transfers: `expiry:LOT`.
SCOPE: Final = "lots"
# As long as a request may take by default (`max_request_s`).
PATIENCE: Final = timedelta(hours=1)
# Lots of one round.
MOST: Final = 200
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC), ""

_query = queries("billing.payments")
_accounts_query = queries("billing.accounts")


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
            await connection.fetchrow(_accounts_query("accounts_lock"), account_id)
            lot = await lots.find(connection, account_id, lot_id)
            if not lot.left_nano:
                await lots.settle(connection, account_id)
                return 0
            source = PROMOTIONS if lot.terms.promotional else REVENUE
            named = SCOPE, f"expiry:{lot.id}", f"credit of {lot.created_at:%Y-%m-%d}"
            entry = Entry(account_id, -lot.left_nano, source, "expiry", *named, of_lot=lot.id)
            result = await self._grants.record(connection, entry, audit.SYSTEM)
            return 0 if result.replayed else lot.left_nano


LEASE: Final = "subscriptions"
EVERY_S: Final = 60.0
# Accounts that one look finds; each has a transaction of its own.
BATCH: Final = 100
_payment_query = queries("billing.payments")


class Recovery:
    """Looks for accounts whose days of grace are over. `owner` names this process, `now` is an aware clock."""

    def __init__(
        self,
        database: Database,
        subscriptions: Subscriptions,
        effects: ChangeNotifier,
        owner: str,
        now: Callable[[], datetime],
    ) -> None:
        self._database, self._subscriptions, self._effects = database, subscriptions, effects
        self._owner, self._now = owner, now

    def work(self) -> Periodic:
        """Return what looks for them."""
        lease = Lease(self._database, LEASE, self._owner)
        return Periodic(name="recovery", every_s=EVERY_S, round=self._all, lease=lease)

    async def _all(self) -> None:
        while await self.round() == BATCH:
            pass

    async def round(self) -> int:
        """Take back the plans of some accounts whose days of grace are over; return of how many. Raises
        `DatabaseError`."""
        since = self._now() - self._subscriptions.rules.grace
        rows = await self._database.rows(_payment_query("subscriptions_overdue"), since, BATCH)
        for row in rows:
            async with self._database.transaction() as connection:
                await self._subscriptions.judge(connection, row["account_id"])
            await self._effects.account_changed(row["account_id"])
        return len(rows)
