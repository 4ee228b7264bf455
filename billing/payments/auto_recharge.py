"""Auto-recharge: an account that asked for it is charged when what it may spend falls below its threshold.

This file owns that there is one charge at a time, and never two for one attempt: an attempt is counted on before the
provider is asked, its order is named by the attempt and each call by the order, so that whoever takes up what was
broken off finds the same order and the same payment. After a decline it waits, an hour at first and twice as long each
time, up to a day; after `declines` of them, one that is final, or one that needs the payer it stops, and says so.

Alerts tell an account that its balance is low, once for each time that it falls below its threshold.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from billing import audit
from billing.accounts.accounts import AccountNotFound
from billing.database.connection import Database, queries
from billing.money import format_usd
from billing.notices.emit import emit
from billing.payments.orders import NewOrder, OrderError
from billing.payments.port import PaymentError
from billing.payments.recharges import note_end, recharge_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.audit import Actor
    from billing.payments.objects import Payment
    from billing.payments.orders import Order, Orders
    from billing.payments.port import HostedPage
    from billing.payments.recharges import Recharge, State


logger = logging.getLogger(__name__)

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
# Accounts that one round looks at, from where the last one ended.
LOOKED_AT: Final = 5_000
UNDER_WAY: Final = ("ready", "waiting", "capped", "charging")
NEEDS_PAYER: Final = "authentication_required"
PENDING: Final = "payment_pending"

_query = queries("billing.payments")


class Charger(Protocol):
    """What takes payments (`flows.Flows`)."""

    async def charge(self, order: Order) -> Payment: ...

    async def find(self, order: Order) -> Payment | None: ...

    async def give_up(self, payment: Payment) -> Payment | None: ...

    async def save_method(self, account_id: str, return_url: str | None) -> HostedPage: ...


class AutoRecharge:
    """Charges by what accounts have asked for. `now` gives an aware time. Methods raise `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        orders: Orders,
        charger: Charger,
        declines: int,
        now: Callable[[], datetime],
    ) -> None:
        """After so many `declines` it stops."""
        self._database, self._orders, self._charger = database, orders, charger
        self._declines, self._now, self._after = declines, now, ""

    async def round(self) -> int:
        """Charge accounts that are below their thresholds, and go on with what was broken off; return how many were
        charged or tried. A provider that is away is asked again later."""
        row = await self._database.row(_query("recharges_due"), self._now(), self._after, LOOKED_AT, MOST)
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
            if payment is not None and payment.status == "open" and payment.created_at <= self._now() - MOST_OPEN:
                payment = await self._charger.give_up(payment)
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
        now = self._now()
        async with self._database.transaction() as connection:
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
        return await self._charger.charge(await self._orders.create(asked))

    async def _resumed(self, attempt: Recharge, is_wanted: bool) -> Payment | None:
        """Return the payment of an attempt that was broken off: the provider forgets keys after a day, and so is asked
        for the order's payment first. None: nothing was paid, and it is not wanted any more."""
        order = await self._orders.of_key(attempt.account_id, _key(attempt))
        found = None if order is None else await self._charger.find(order)
        if found is not None:
            return found
        if is_wanted:
            return await self._charged(attempt) if order is None else await self._charger.charge(order)
        if order is not None:
            await self._orders.failed(order.id, "not_wanted")
        return None

    async def _conclude(self, attempt: Recharge, payment: Payment | None) -> None:
        """Store the result of an attempt; an attempt whose payment is still pending is checked again later."""
        if payment is None:
            await self._note(attempt, "ready", None)
        elif payment.status in ("open", "processing"):
            if payment.status == "processing" and payment.created_at <= self._now() - MOST_PROCESSING:
                logger.warning("auto-recharge of %s stops: %s is still processed", attempt.account_id, payment.id)
                await self._note(attempt, "stopped", PENDING)
        elif payment.status == "paid":
            await self._note(attempt, "ready", None, self._now() + AFTER_SUCCESS)
        elif payment.status == "requires_action":
            await self._note(attempt, "stopped", NEEDS_PAYER, url=await self._link(attempt.account_id))
        else:
            reason = payment.decline_code or payment.status
            declines = attempt.declines + 1
            if payment.hard or declines >= self._declines:
                url = await self._link(attempt.account_id)
                await self._note(attempt, "stopped", reason, declines=declines, url=url)
            else:
                pause = min(FIRST_PAUSE * 2 ** (declines - 1), MOST_PAUSE)
                await self._note(attempt, "waiting", reason, self._now() + pause, declines=declines)

    async def _link(self, account_id: str) -> str | None:
        """Return a page at which the payer can save another method; None where there is none."""
        try:
            return (await self._charger.save_method(account_id, None)).url
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
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("recharges_lock"), attempt.account_id)
            if row is not None and (row["attempt"], row["state"]) == (attempt.attempt, "charging"):
                at = next_attempt_at or self._now()
                await note_end(connection, recharge_of(row), state, reason, at, declines=declines, url=url)


def _key(attempt: Recharge) -> str:
    return f"recharge:{attempt.attempt}"


"""Accounts of one round."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Below what an account is told: its own threshold, or else the default; and whether it is armed."""

    threshold_nano: int
    is_default: bool
    armed: bool


class Alerts:
    """Keeps thresholds and tells of balances. Methods raise `DatabaseError`.

    What counts is what may be spent: the balance and the credit limit. An account is armed when it is seen above, and
    told when it is seen below and armed, so that a new account without credit is told nothing. A round looks at a
    bounded number of accounts by their ids and goes on where the last one ended: no index follows balances, which every
    debit changes.
    """

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
            after = {"threshold_usd": None if threshold_nano is None else format_usd(threshold_nano)}
            was = {"threshold_usd": None if before.is_default else format_usd(before.threshold_nano)}
            await audit.record(connection, actor, "account.alert", account_id, was, after, account_id=account_id)
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
