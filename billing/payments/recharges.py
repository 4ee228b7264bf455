"""Recharges: what accounts ask of auto-recharge, and what has become of it.

RechargeRefused   it can't be switched on so
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from billing import audit
from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.money import format_cents, format_usd
from billing.notices.emit import emit
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["off", "ready", "charging", "waiting", "capped", "stopped"]
_query = queries("billing.payments")


class RechargeRefused(MetergateError):
    """Auto-recharge can't be switched on so. `field` names what of the request is wrong."""

    kind = "invalid"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class RechargeRules:
    """How much may be charged at once, in cents."""

    min_cents: int = 500
    max_cents: int = 1_000_000

    def __post_init__(self) -> None:
        if not 0 < self.min_cents <= self.max_cents:
            raise ValueError("amounts rise from min to max, above zero")


@dataclass(frozen=True, slots=True)
class Wish:
    """What an account asks for: charge `amount_cents` below `threshold_nano`, in a month no more than the cap."""

    enabled: bool
    threshold_nano: int
    amount_cents: int
    monthly_cap_cents: int


@dataclass(frozen=True, slots=True)
class Recharge:
    """A row of auto_recharges: a wish and what has become of it. `url` is where the payer has to act."""

    account_id: str
    enabled: bool
    threshold_nano: int
    amount_cents: int
    monthly_cap_cents: int
    state: State
    reason: str | None
    url: str | None
    attempt: int
    declines: int
    next_attempt_at: datetime


class Methods(Protocol):
    """What knows saved payment methods (`customers.Customers`)."""

    async def method(self, account_id: str) -> str | None: ...


class Recharges:
    """Keeps wishes. `now` gives an aware time. Methods raise `DatabaseError`."""

    def __init__(
        self, database: Database, customers: Methods, rules: RechargeRules, now: Callable[[], datetime]
    ) -> None:
        self._database, self._customers, self.rules, self._now = database, customers, rules, now

    async def get(self, account_id: str) -> Recharge | None:
        """Return what an account has asked for; None: nothing yet."""
        row = await self._database.row(_query("recharges_get"), account_id)
        return None if row is None else recharge_of(row)

    async def put(self, account_id: str, wish: Wish, *, actor: audit.Actor) -> Recharge:
        """Replace what an account asks for; what stopped it before is forgotten, a charge under way goes on. Raises
        `RechargeRefused`."""
        self._check(wish)
        if wish.enabled and await self._customers.method(account_id) is None:
            raise RechargeRefused(
                "Save a payment method first, in the console or by `metergate billing setup`.", "enabled"
            )
        values = (wish.enabled, wish.threshold_nano, wish.amount_cents, wish.monthly_cap_cents, self._now())
        async with self._database.transaction() as connection:
            before = await connection.fetchrow(_query("recharges_lock"), account_id)
            after = recharge_of(await connection.fetchrow(_query("recharges_put"), account_id, *values))
            shown = None if before is None else _audited(recharge_of(before))
            await audit.record(
                connection,
                actor,
                "account.auto_recharge",
                account_id,
                shown,
                _audited(after),
                account_id=account_id,
            )
        return after

    def _check(self, wish: Wish) -> None:
        rules = self.rules
        if not rules.min_cents <= wish.amount_cents <= rules.max_cents:
            low, high = format_cents(rules.min_cents), format_cents(rules.max_cents)
            raise RechargeRefused(f"amount_usd must be {low} to {high} USD in whole cents.", "amount_usd")
        if wish.monthly_cap_cents < wish.amount_cents:
            raise RechargeRefused("monthly_cap_usd must not be below amount_usd.", "monthly_cap_usd")


async def note_end(
    connection: Connection,
    recharge: Recharge,
    state: State,
    reason: str | None,
    next_attempt_at: datetime,
    *,
    declines: int = 0,
    url: str | None = None,
) -> None:
    """Write in the caller's transaction, which has locked the row, what has become of a wish; and a notice of what is
    no success."""
    after = state if recharge.enabled or state == "stopped" else "off"
    values = (after, reason, url, declines, next_attempt_at)
    await connection.execute(_query("recharges_ended"), recharge.account_id, *values)
    if reason is not None:
        waits = after in ("waiting", "capped")
        data = {
            "amount_usd": format_cents(recharge.amount_cents),
            "reason": reason,
            "state": after,
            "next_attempt_at": rfc3339(next_attempt_at) if waits else None,
            "url": url,
        }
        await emit(connection, recharge.account_id, "auto_recharge.failed", data)


def recharge_of(row: Row | None) -> Recharge:
    """Return a wish from its row."""
    if row is None:
        raise LookupError("the row was locked just now")
    return Recharge(**{name: row[name] for name in Recharge.__slots__})


def _audited(recharge: Recharge) -> dict[str, object]:
    return {
        "enabled": recharge.enabled,
        "threshold_usd": format_usd(recharge.threshold_nano),
        "amount_usd": format_cents(recharge.amount_cents),
        "monthly_cap_usd": format_cents(recharge.monthly_cap_cents),
    }
