"""Alerts: an account is told that its balance is low, once for each time that it falls below its threshold.

What counts is what may be spent: the balance and the credit limit. An account is armed when it is seen above, and told
when it is seen below and armed, so that a new account without credit is told nothing. A round looks at a bounded number
of accounts by their ids and goes on where the last one ended: no index follows balances, which every debit changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.accounts.accounts import AccountNotFound
from billing.database.connection import Database, queries
from billing.money import format_usd
from billing.notices.emit import emit

if TYPE_CHECKING:
    from billing.audit import Actor

LOOKED_AT: Final = 5_000
"""Accounts of one round."""

_query = queries("billing.payments")


@dataclass(frozen=True, slots=True)
class Alert:
    """Below what an account is told: its own threshold, or else the default; and whether it is armed."""

    threshold_nano: int
    is_default: bool
    armed: bool


class Alerts:
    """Keeps thresholds and tells of balances. Methods raise `DatabaseError`."""

    def __init__(self, database: Database, default_nano: int) -> None:
        """`default_nano` is the threshold of accounts that have none of their own; 0: they are told of debt alone."""
        self._database, self._default_nano, self._after = database, default_nano, ""

    async def get(self, account_id: str) -> Alert:
        """Return an account's alert."""
        row = await self._database.row(_query("alerts_get"), account_id)
        own = None if row is None else row["threshold_nano"]
        armed = row is not None and row["armed"]
        return Alert(self._default_nano if own is None else own, own is None, armed)

    async def put(self, account_id: str, threshold_nano: int | None, *, actor: Actor) -> Alert:
        """Set an account's threshold; None: the default again. Raises `AccountNotFound`."""
        before = await self.get(account_id)
        async with self._database.transaction() as connection:
            if await connection.fetchval(_query("alerts_put"), account_id, threshold_nano) is None:
                raise AccountNotFound(f"There is no account {account_id!r}.")
            said = {"threshold_usd": None if threshold_nano is None else format_usd(threshold_nano)}
            was = {"threshold_usd": None if before.is_default else format_usd(before.threshold_nano)}
            await audit.record(connection, actor, "account.alert", account_id, was, said, account_id=account_id)
        return await self.get(account_id)

    async def round(self) -> int:
        """Look at `LOOKED_AT` accounts; return how many were told that their balance is low."""
        async with self._database.transaction() as connection:
            found = await connection.fetchrow(_query("alerts_look"), self._after, LOOKED_AT, self._default_nano)
            crossed = [] if found is None else found["crossed"]
            for each in crossed:
                data = {
                    "available_usd": format_usd(each["available_nano"]),
                    "threshold_usd": format_usd(each["threshold_nano"]),
                }
                await emit(connection, each["account_id"], "balance.low", data)
        self._after = "" if found is None else found["place"]
        return len(crossed)
