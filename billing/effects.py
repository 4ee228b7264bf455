"""Effects: what must be told to Redis and to the gateways after a change has been committed to Postgres.

Postgres is changed first and is the judge; these calls only make the change felt sooner. None of them raises because
Redis is away: what could not be told is told later by a relay, from the versions and corrections in Postgres.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LiveBalance:
    """An account's money as Redis has it now, in nano-USD; `balance_nano` excludes what is held."""

    balance_nano: int
    held_nano: int


class Effects(Protocol):
    """The port that accounts, keys and grants speak to; called after the commit, never inside a transaction."""

    async def account_changed(self, account_id: str) -> None:
        """The account's version has risen: push it to Redis and to every gateway's cache."""

    async def key_changed(self, key_id: str, account_id: str) -> None:
        """The key's version has risen: push it likewise."""

    async def balance_changed(self, account_id: str) -> None:
        """The account has new corrections: tell Redis of them."""

    async def live_balance(self, account_id: str) -> LiveBalance | None:
        """The account's money in Redis; None where Redis is away or does not know the account."""
