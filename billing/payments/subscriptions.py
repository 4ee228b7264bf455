"""Subscriptions of accounts: what was seen of them at the provider becomes the account's plan and its included credit.

Functions that are given a connection work in the caller's transaction; the caller tells the effects after its commit.
The account's row is locked first, so that the states of an account's subscriptions are judged one after another; the
plan follows from all of them together (`billing.payments.in_force`). Recovery ends plans by the clock alone: one that
was not paid for is taken back after its days of grace; a payment brings it back at once. The handlers are called by
`billing.payments.events`; they write the notices of payments, too.

SubscriptionError
+-- NoSubscription       none is in force that could be changed: one begins at a checkout
+-- SubscriptionRefused  the plan can't be subscribed to
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.accounts.grants import PROMOTIONS, Entry, IdempotencyConflict, Terms
from billing.database.connection import queries
from billing.errors import MetergateError
from billing.money import format_cents
from billing.notices.emit import emit
from billing.payments import orders
from billing.payments.events import NOBODY, After, Handler, Owner, account_of
from billing.payments.in_force import OWING, PAID, InForce, Seen, decide, included_credit, plan_change
from billing.payments.port import Invoice, ObjectRef, Subscription, included_scope, money_key
from billing.times import rfc3339
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from billing.accounts.grants import Grants
    from billing.change_notifier import ChangeNotifier
    from billing.database.connection import Connection, Database, Row
    from billing.payments.port import PaymentProvider
    from billing.plans import Plan, Plans


# Included credit is drawn before what was bought: it expires.
INCLUDED_PRIORITY: Final = 20
RECOVERY: Final = "subscriptions"
RECOVERY_EVERY_S: Final = 60.0
# Accounts that one round reads; each has a transaction of its own.
BATCH: Final = 100
_query = queries("billing.payments")
_accounts = queries("billing.accounts")


class SubscriptionError(MetergateError):
    """A subscription was not changed. The message is fit for a reader."""


class NoSubscription(SubscriptionError):
    """The account has no subscription that could be changed."""

    kind, field = "conflict", "plan"


class SubscriptionRefused(SubscriptionError):
    """The plan can't be subscribed to."""

    kind, field = "invalid", "plan"


@dataclass
class Subscriptions:
    """Judges subscriptions. Without one an account has the `default_plan`; one that is not paid stays in force for
    `grace`. `clock` gives an aware time. Methods raise `DatabaseError`."""

    plans: Plans
    grants: Grants
    default_plan: str
    grace: timedelta
    clock: Callable[[], datetime]

    def plan_of_price(self, price_id: str) -> Plan | None:
        """Return our plan of a provider's price: the one that names it as `stripe_price`, or has it as its own id."""
        found = (each for each in self.plans.values() if each.stripe_price == price_id)
        return next(found, None) or self.plans.get(price_id)

    def decided(self, rows: Sequence[Row]) -> InForce:
        """Return what the rows of an account's subscriptions come to now."""
        seen = [Seen(**{name: row[name] for name in Seen.__slots__}) for row in rows]
        return decide(seen, self.plans, self.default_plan, self.clock(), self.grace)

    async def apply(self, connection: Connection, provider: str, account_id: str, seen: Subscription) -> InForce:
        """Note a subscription's present state and give its account the plan that follows; the caller then tells
        `ChangeNotifier.account_changed`. The same state again changes nothing."""
        await connection.fetchrow(_accounts("accounts_lock"), account_id)
        plan = self.plan_of_price(seen.price_id)
        next_plan = None if seen.next_price_id is None else self.plan_of_price(seen.next_price_id)
        await connection.execute(
            _query("subscriptions_see"),
            provider,
            seen.id,
            account_id,
            seen.status,
            None if plan is None else plan.id,
            None if next_plan is None else next_plan.id,
            seen.period_start,
            seen.period_end,
            seen.ends_at,
            self.clock() if seen.status in OWING else None,
            seen.created_at,
        )
        mrr_nano = 0 if plan is None else plan.price_nano
        counted = (provider, seen.id, mrr_nano, seen.ended_at or self.clock())
        await connection.execute(_query("subscriptions_count"), *counted)
        return await self.judge(connection, account_id)

    async def apply_invoice(self, connection: Connection, provider: str, account_id: str, invoice: Invoice) -> bool:
        """Give an account the credit that a paid invoice brings, or take back what it takes back, once for each line;
        return whether any was moved: the caller then tells `ChangeNotifier.balance_changed`. Raises
        `BalanceOutOfBounds`."""
        prices = {line.price_id for line in invoice.lines if line.price_id is not None}
        plan_of = {price: plan for price in sorted(prices) if (plan := self.plan_of_price(price)) is not None}
        given = False
        for each in included_credit(invoice, plan_of):
            key = money_key(provider, "invoice", invoice.id, each.line_id)
            terms = Terms(INCLUDED_PRIORITY, expires_at=each.expires_at)
            note = f"included in {each.plan}"
            named = included_scope(provider, account_id), key, note
            entry = Entry(account_id, each.amount_nano, PROMOTIONS, "subscription", *named, terms=terms)
            try:
                given |= not (await self.grants.record(connection, entry, audit.SYSTEM)).replayed
            except IdempotencyConflict:  # it was given by what the plan had then
                continue
        return given

    async def judge(self, connection: Connection, account_id: str) -> InForce:
        """Give an account the plan that its subscriptions come to now, and tell of the change. Without a subscription,
        or where nothing has changed, nothing is touched."""
        account = await connection.fetchrow(_accounts("accounts_lock"), account_id)
        rows = await connection.fetch(_query("subscriptions_of"), account_id)
        wanted = self.decided(rows)
        before = await connection.fetchrow(_query("account_plans_get"), account_id)
        if account is None or not rows or (before is None and wanted.standing == "none"):
            return wanted
        seen = wanted.subscription
        waits = (None, None) if seen is None else (seen.ends_at, seen.next_plan)
        values = (wanted.plan, wanted.standing, *waits)
        known = None if before is None else tuple(before[name] for name in ("plan", "standing", "ends_at", "next_plan"))
        if known == values:
            return wanted
        await connection.execute(_query("account_plans_set"), account_id, *values)
        if known is None or known[:2] != values[:2]:
            await self._change(connection, account, before, wanted)
        else:  # it will end, or change, or will not any more
            await emit(connection, account_id, "subscription.changed", _notice_data(wanted) | {"plan": wanted.plan})
        return wanted

    async def _change(self, connection: Connection, account: Row, before: Row | None, wanted: InForce) -> None:
        """Change an account as its subscriptions say, with a row of the audit log and a notice."""
        plan = wanted.plan if before is None or before["plan"] != wanted.plan else None
        owed = wanted.standing == "past_due"
        judged = owed or (before is not None and before["standing"] == "past_due")
        since = wanted.subscription.past_due_since if owed and wanted.subscription is not None else None
        after = await connection.fetchrow(_query("account_plans_apply"), account["id"], plan, since, judged)
        if after is None:
            return
        change = ({name: row[name] for name in ("plan", "status")} for row in (account, after))
        about = account["id"]
        await audit.record(connection, audit.SYSTEM, "account.subscription", about, *change, account_id=about)
        type_ = {"active": "subscription.changed", "past_due": "subscription.past_due"}.get(wanted.standing)
        data = _notice_data(wanted) | {"plan": after["plan"], "plan_before": account["plan"]}
        await emit(connection, about, type_ or "subscription.ended", data)  # type: ignore[arg-type]


@dataclass
class SubscriptionChanges:
    """Changes subscriptions at the provider, as their account asks. `refresh` has an object fetched and its state
    applied, as after an event."""

    database: Database
    provider: PaymentProvider
    subscriptions: Subscriptions
    refresh: Callable[[ObjectRef], Awaitable[object]]

    async def current(self, account_id: str) -> Seen | None:
        """Return the subscription that gives an account its plan, or would, were it paid; None: there is none."""
        return (await self.in_force(account_id)).subscription

    async def in_force(self, account_id: str) -> InForce:
        """Return what an account's subscriptions come to now."""
        return self.subscriptions.decided(await self.database.rows(_query("subscriptions_of"), account_id))

    async def change(self, account_id: str, plan_id: str, actor: audit.Actor = audit.SYSTEM) -> Seen:
        """Change an account's subscription to another plan: to a dearer one at once, to a cheaper one from the next
        period on; to a free one by ending it then. Its own plan takes back what waits. Return it as it is then.

        Raises `NoSubscription`, `SubscriptionRefused` and what the provider raises."""
        wanted, current = self.subscriptions.plans.get(plan_id), await self.current(account_id)
        if wanted is None:
            raise SubscriptionRefused(f"There is no plan {plan_id!r}: `metergate billing plans` lists them.")
        if current is None:
            raise NoSubscription(
                "There is no subscription to change: begin one with `metergate billing checkout --plan PLAN`, or in "
                "the console."
            )
        change = plan_change(current, wanted, self.subscriptions.plans)
        if change == "nothing":
            return current
        status = await self.database.value(_query("account_status"), account_id)
        if change != "cancel" and status in ("closed", "suspended"):
            raise SubscriptionRefused(f"The account is {status}: its subscription can be ended, and no more.")
        name = self.provider.name
        if change in ("now", "period_end") and name == "stripe" and not wanted.stripe_price:
            raise SubscriptionRefused(f"The plan {plan_id!r} can't be bought here: ask whoever runs this gateway.")
        async with self.database.transaction() as connection:
            asked = await connection.fetchval(_query("subscriptions_ask"), name, current.id)
            said = {"plan": current.plan}, {"plan": plan_id, "change": change}
            await audit.record(connection, actor, "subscription.change", account_id, *said, account_id=account_id)
        key = f"subscription:{current.id}:{asked}:{change}:{plan_id}"
        price_id = wanted.stripe_price or wanted.id
        if change == "now":
            if current.ends_at is not None or current.next_plan is not None:
                await self.provider.resume(current.id, f"{key}:resume")
            await self.provider.change_plan(current.id, price_id, "now", key)
        elif change == "period_end":
            await self.provider.change_plan(current.id, price_id, "period_end", key)
        elif change == "cancel":
            await self.provider.cancel(current.id, "period_end", key)
        else:
            await self.provider.resume(current.id, key)
        await self.refresh(ObjectRef("subscription", current.id))
        return await self.current(account_id) or current

    async def end(self, account_id: str, actor: audit.Actor) -> None:
        """End what an account subscribes to, where it does, with the period that is paid. Raises as `change`."""
        if await self.current(account_id) is not None:
            free = (plan.id for plan in self.subscriptions.plans.values() if plan.price_nano == 0)
            await self.change(account_id, next(free, self.subscriptions.default_plan), actor)


@dataclass
class Recovery:
    """Finds accounts whose days of grace are over. `owner` names this process."""

    database: Database
    subscriptions: Subscriptions
    effects: ChangeNotifier
    owner: str

    def work(self) -> Periodic:
        """Return what looks for them."""
        lease = Lease(self.database, RECOVERY, self.owner)
        return Periodic(name="recovery", every_s=RECOVERY_EVERY_S, round=self._all, lease=lease)

    async def _all(self) -> None:
        while await self.round() == BATCH:
            pass

    async def round(self) -> int:
        """Take back the plans of some accounts whose days of grace are over; return of how many. Raises
        `DatabaseError`."""
        since = self.subscriptions.clock() - self.subscriptions.grace
        rows = await self.database.rows(_query("subscriptions_overdue"), since, BATCH)
        for row in rows:
            async with self.database.transaction() as connection:
                await self.subscriptions.judge(connection, row["account_id"])
            await self.effects.account_changed(row["account_id"])
        return len(rows)


def _notice_data(wanted: InForce) -> dict[str, object]:
    """Return the data of the notice of a plan that has come into force."""
    seen = wanted.subscription
    ends_at = wanted.grace_until or (None if seen is None else seen.ends_at)
    return {
        "standing": wanted.standing,
        "subscription_id": None if seen is None else seen.id,
        "period_end": None if seen is None else rfc3339(seen.period_end),
        "ends_at": None if ends_at is None else rfc3339(ends_at),
        "next_plan": None if seen is None else seen.next_plan,
    }


def subscription_handler(provider: str, subscriptions: Subscriptions) -> Handler:
    """Return what applies a subscription: the plan of its account, and the order that began it."""

    async def apply(connection: Connection, before: Subscription | None, now: Subscription, after: After) -> Owner:
        account_id = await account_of(connection, provider, now.customer_id)
        if account_id is None:
            return NOBODY
        order = None  # its row is locked before the account's, as payments do
        if now.order_id is not None:
            order = await connection.fetchrow(_query("orders_lock"), now.order_id)
        await subscriptions.apply(connection, provider, account_id, now)
        after.accounts.add(account_id)
        whose = None if order is None or order["credited_at"] is not None else order["account_id"]
        if order is not None and whose == account_id and now.status in PAID:
            await orders.credited(connection, order["id"], subscription_id=now.id)
        return Owner(account_id, now.order_id)

    return apply


def invoice_handler(provider: str, subscriptions: Subscriptions) -> Handler:
    """Return what applies an invoice: the credit that its lines bring once it is paid. Its subscription is looked at
    next."""

    async def apply(connection: Connection, before: Invoice | None, now: Invoice, after: After) -> Owner:
        account_id = None if now.customer_id is None else await account_of(connection, provider, now.customer_id)
        if account_id is None:
            return NOBODY
        is_new = before is None or before.status != now.status
        if await subscriptions.apply_invoice(connection, provider, account_id, now):
            after.balances.add(account_id)
            is_new = True
        if is_new and now.payment_id is not None:  # earlier refunds and disputes take back the credit that it brings
            after.refs.append(ObjectRef("payment", now.payment_id))
        await _notify_of_invoice(connection, account_id, now)
        if now.subscription_id is not None:
            after.refs.append(ObjectRef("subscription", now.subscription_id))
        return Owner(account_id, now.order_id)

    return apply


async def _notify_of_invoice(connection: Connection, account_id: str, invoice: Invoice) -> None:
    """Tell of a payment that came or failed: once, and of each failed attempt once."""
    data = {
        "invoice_id": invoice.id,
        "amount_usd": format_cents(invoice.total_cents),
        "url": invoice.hosted_url,
    }
    if invoice.status == "paid" and invoice.total_cents > 0:
        await emit(connection, account_id, "payment.succeeded", data, once=invoice.id)
    elif invoice.status == "open" and invoice.attempts > 0:
        again = invoice.next_attempt_at
        data["next_attempt_at"] = None if again is None else rfc3339(again)
        await emit(connection, account_id, "payment.failed", data, once=f"{invoice.id}:{invoice.attempts}")
