"""Auto-recharge: an account that asked for it is charged when what it may spend falls below its threshold.

There is one charge at a time, and never two for one attempt: an attempt is counted before the provider is asked, its
order is named by the attempt and each call by the order, so that whoever takes up what was broken off finds the same
order and the same payment. After a decline it waits, an hour at first and twice as long each time, up to a day; after
`declines` of them, one that is final, or one that needs the payer it stops, and says so.

RechargeRefused   it can't be switched on so
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from billing import audit
from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.money import format_cents, format_usd
from billing.notices.emit import emit
from billing.payments.orders import NewOrder, OrderError
from billing.payments.port import PaymentError
from billing.times import rfc3339
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.payments.events import Customers
    from billing.payments.flows import FlowRules, Flows
    from billing.payments.orders import Orders
    from billing.payments.port import Payment

logger = logging.getLogger(__name__)
_query = queries("billing.payments")

State = Literal["off", "ready", "charging", "waiting", "capped", "stopped"]


class RechargeRefused(MetergateError):
    """Auto-recharge can't be switched on so. `field` names what of the request is wrong."""

    kind = "invalid"


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


@dataclass
class Recharges:
    """Keeps wishes. `now` gives an aware time. Methods raise `DatabaseError`."""

    database: Database
    customers: Customers
    rules: FlowRules
    now: Callable[[], datetime]

    async def get(self, account_id: str) -> Recharge | None:
        """Return what an account has asked for; None: nothing yet."""
        row = await self.database.row(_query("recharges_get"), account_id)
        return None if row is None else recharge_of(row)

    async def put(self, account_id: str, wish: Wish, *, actor: audit.Actor) -> Recharge:
        """Replace what an account asks for; what stopped it before is forgotten, a charge under way goes on. Raises
        `RechargeRefused`."""
        self._check(wish)
        if wish.enabled and await self.customers.method(account_id) is None:
            raise RechargeRefused(
                "Save a payment method first, in the console or by `metergate billing setup`.", "enabled"
            )
        values = (wish.enabled, wish.threshold_nano, wish.amount_cents, wish.monthly_cap_cents, self.now())
        async with self.database.transaction() as connection:
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


LEASE: Final = "auto-recharge"
EVERY_S: Final = 3.0
FIRST_PAUSE: Final = timedelta(hours=1)
MOST_PAUSE: Final = timedelta(hours=24)
# Until the next charge: the balance has been told by then.
AFTER_SUCCESS: Final = timedelta(minutes=1)
# The wait before an interrupted attempt, or a pending payment, is checked again.
AGAIN: Final = timedelta(minutes=2)
# After which a payment that was made and never confirmed is canceled at the provider: the attempt has failed then.
MOST_OPEN: Final = timedelta(hours=1)
# After which a payment that the provider is still processing is waited for no longer: auto-recharge stops, for it may
# come yet, and is credited then. Cards take minutes, debits by ACH up to 4 business days, by SEPA up to 14
# (https://docs.stripe.com/payments/ach-direct-debit, https://docs.stripe.com/payments/sepa-debit).
MOST_PROCESSING: Final = timedelta(days=21)
# Accounts that one round charges.
MOST: Final = 20
# Accounts that one round reads, from where the last one ended.
ACCOUNTS_READ: Final = 5_000
UNDER_WAY: Final = ("ready", "waiting", "capped", "charging")
NEEDS_PAYER: Final = "authentication_required"
PENDING: Final = "payment_pending"


@dataclass
class AutoRecharge:
    """Charges by what accounts have asked for. `now` gives an aware time. Methods raise `DatabaseError`. After so many
    `declines` it stops."""

    database: Database
    orders: Orders
    flows: Flows
    declines: int
    now: Callable[[], datetime]
    _after: str = field(default="", init=False)

    def work(self, owner: str) -> Periodic:
        """Return what charges again and again, in one gateway of all; `owner` names this process."""
        lease = Lease(self.database, LEASE, owner)
        return Periodic(name="auto_recharge", every_s=EVERY_S, round=self.round, lease=lease)

    async def round(self) -> int:
        """Charge accounts that are below their thresholds, and go on with what was broken off; return how many were
        charged or tried. A provider that is away is asked again later."""
        row = await self.database.row(_query("recharges_due"), self.now(), self._after, ACCOUNTS_READ, MOST)
        due, self._after = ((), "") if row is None else (row["due"], row["place"])
        return sum([await self._recharge(account_id) for account_id in due])

    async def _recharge(self, account_id: str) -> bool:
        """Make one attempt, or go on with the one that was broken off; return whether anything was asked."""
        begun = await self._begin(account_id)
        if begun is None:
            return False
        attempt, is_resumed, is_wanted = begun
        try:
            payment = await (self._resumed(attempt, is_wanted) if is_resumed else self._charged(attempt))
            if payment is not None and payment.status == "open" and payment.created_at <= self.now() - MOST_OPEN:
                payment = await self.flows.give_up(payment)
            await self._conclude(attempt, payment)
        except (PaymentError, OrderError) as error:
            if error.kind == "unavailable":  # it is away, or the operator has to mend our access to it
                logger.warning("auto-recharge of %s waits: %s", account_id, error)
                return True
            logger.warning("auto-recharge of %s can't be made: %s", account_id, error)
            await self._note(attempt, "stopped", "not_possible")
        return True

    async def _begin(self, account_id: str) -> tuple[Recharge, bool, bool] | None:
        """Count on the attempt, unless one was broken off, and note that it is under way; return it, whether it was
        broken off, and whether it may be charged still. None: nothing is to be charged now."""
        now = self.now()
        async with self.database.transaction() as connection:
            row = await connection.fetchrow(_query("recharges_lock"), account_id)
            if row is None or row["next_attempt_at"] > now or row["state"] not in UNDER_WAY:
                return None
            before = recharge_of(row)
            is_resumed = before.state == "charging"
            # Since it was found to be due it may have been suspended or closed, or credited, or want less.
            is_wanted = before.enabled and bool(await connection.fetchval(_query("recharges_wanted"), account_id))
            month = datetime(now.year, now.month, 1, tzinfo=UTC)
            own = _key(before) if is_resumed else ""
            spent_cents = await connection.fetchval(_query("recharges_spent"), account_id, month, own)
            is_within = spent_cents + before.amount_cents <= before.monthly_cap_cents
            if not is_resumed and not is_wanted:
                return None
            if not is_resumed and not is_within:
                following = (month + timedelta(days=32)).replace(day=1)
                await note_end(connection, before, "capped", "monthly_cap", following)
                return None
            begun = await connection.fetchrow(_query("recharges_begin"), account_id, now + AGAIN)
        return recharge_of(begun), is_resumed, is_wanted and is_within

    async def _charged(self, attempt: Recharge) -> Payment | None:
        """Return the payment of a new attempt."""
        asked = NewOrder(attempt.account_id, "recharge", attempt.amount_cents, _key(attempt))
        return await self.flows.charge(await self.orders.create(asked))

    async def _resumed(self, attempt: Recharge, is_wanted: bool) -> Payment | None:
        """Return the payment of an attempt that was broken off: the provider forgets keys after a day, and so is asked
        for the order's payment first. None: nothing was paid, and it is not wanted any more."""
        order = await self.orders.of_key(attempt.account_id, _key(attempt))
        found = None if order is None else await self.flows.find(order)
        if found is not None:
            return found
        if is_wanted:
            return await self._charged(attempt) if order is None else await self.flows.charge(order)
        if order is not None:
            await self.orders.failed(order.id, "not_wanted")
        return None

    async def _conclude(self, attempt: Recharge, payment: Payment | None) -> None:
        """Store the result of an attempt; an attempt whose payment is still pending is checked again later."""
        if payment is None:
            await self._note(attempt, "ready", None)
        elif payment.status in ("open", "processing"):
            if payment.status == "processing" and payment.created_at <= self.now() - MOST_PROCESSING:
                logger.warning("auto-recharge of %s stops: %s is still processed", attempt.account_id, payment.id)
                await self._note(attempt, "stopped", PENDING)
        elif payment.status == "paid":
            await self._note(attempt, "ready", None, self.now() + AFTER_SUCCESS)
        elif payment.status == "requires_action":
            await self._note(attempt, "stopped", NEEDS_PAYER, url=await self._link(attempt.account_id))
        else:
            reason = payment.decline_code or payment.status
            declines = attempt.declines + 1
            if payment.hard or declines >= self.declines:
                url = await self._link(attempt.account_id)
                await self._note(attempt, "stopped", reason, declines=declines, url=url)
            else:
                pause = min(FIRST_PAUSE * 2 ** (declines - 1), MOST_PAUSE)
                await self._note(attempt, "waiting", reason, self.now() + pause, declines=declines)

    async def _link(self, account_id: str) -> str | None:
        """Return a page at which the payer can save another method; None where there is none."""
        try:
            return (await self.flows.save_method(account_id, None)).url
        except (PaymentError, OrderError) as error:
            logger.warning("no page for %s to save another method at: %s", account_id, error)
            return None

    async def _note(
        self,
        attempt: Recharge,
        state: State,
        reason: str | None,
        next_attempt_at: datetime | None = None,
        *,
        declines: int = 0,
        url: str | None = None,
    ) -> None:
        """Note how an attempt has ended, unless that is noted already."""
        async with self.database.transaction() as connection:
            row = await connection.fetchrow(_query("recharges_lock"), attempt.account_id)
            if row is not None and (row["attempt"], row["state"]) == (attempt.attempt, "charging"):
                at = next_attempt_at or self.now()
                await note_end(connection, recharge_of(row), state, reason, at, declines=declines, url=url)


def _key(attempt: Recharge) -> str:
    return f"recharge:{attempt.attempt}"
