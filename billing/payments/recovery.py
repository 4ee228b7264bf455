"""Takes plans back that were not paid for: after their days of grace the account has the default plan again.

A payment brings the plan back at once, by what is then seen of the subscription (`billing.payments.subscriptions`);
this only looks at the clock, in one gateway of all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from billing.database.connection import DatabaseError, queries

if TYPE_CHECKING:
    from billing.database.connection import Database
    from billing.effects import Effects
    from billing.payments.subscriptions import Subscriptions

logger = logging.getLogger(__name__)

LEASE: Final = "subscriptions"
EVERY_S: Final = 60.0
BATCH: Final = 100
"""Accounts that one look finds; each has a transaction of its own."""
_query = queries("billing.payments")
TAKE_LEASE: Final = queries("billing.ledger")("jobs_take")


class Recovery:
    """Looks for accounts whose days of grace are over. `owner` names this process, `now` is an aware clock."""

    def __init__(
        self,
        database: Database,
        subscriptions: Subscriptions,
        effects: Effects,
        owner: str,
        now: Callable[[], datetime],
    ) -> None:
        self._database, self._subscriptions, self._effects = database, subscriptions, effects
        self._owner, self._now = owner, now

    async def run(self) -> None:
        """Look again and again."""
        while True:
            try:
                if await self._database.row(TAKE_LEASE, LEASE, self._owner, EVERY_S * 0.9) is not None:
                    while await self.round() == BATCH:
                        pass
            except DatabaseError as error:
                logger.info("plans that are not paid stay: %s", error)
            await asyncio.sleep(EVERY_S)

    async def round(self) -> int:
        """Take back the plans of some accounts whose days of grace are over; return of how many. Raises
        `DatabaseError`."""
        since = self._now() - self._subscriptions.rules.grace
        rows = await self._database.rows(_query("subscriptions_overdue"), since, BATCH)
        for row in rows:
            async with self._database.transaction() as connection:
                await self._subscriptions.judge(connection, row["account_id"])
            await self._effects.account_changed(row["account_id"])
        return len(rows)
