"""ChangeNotifier: how a change that was committed to Postgres reaches Redis and the gateways early.

Postgres is the source of truth; these calls only propagate a committed change early. None of them raises because Redis
is away: what could not be sent is sent later by a relay, from the versions and corrections in Postgres.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LiveBalance:
    """An account's money as Redis has it now, in nano-USD; `balance_nano` still has what is held."""

    balance_nano: int
    held_nano: int


class ChangeNotifier(Protocol):
    """The port that accounts, keys and grants speak to; called after the commit, never inside a transaction."""

    async def account_changed(self, account_id: str) -> None:
        """Push the account's version, which has risen, to Redis and to every gateway's cache."""

    async def key_changed(self, key_id: str, account_id: str) -> None:
        """Push the key's version, which has risen, likewise."""

    async def balance_changed(self, account_id: str) -> None:
        """Push the account's new corrections to Redis."""

    async def live_balance(self, account_id: str) -> LiveBalance | None:
        """Return the account's money in Redis; None where Redis is away or does not know the account."""
