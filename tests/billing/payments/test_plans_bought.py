"""Plans bought from the local provider, through every part that payments have, by a clock that is moved."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from billing.money import format_usd
from billing.payments.assembly import PaymentParts, PaymentRules, Payments, local_provider, make_payments
from billing.payments.expiry import Recovery
from billing.payments.flows import FlowRules, Wanted
from billing.payments.local.provider import LocalProvider
from billing.payments.orders import OrderConflict
from billing.payments.subscriptions import NoSubscription, SubscriptionRefused
from tests.billing.payments.test_in_force import PLANS
from tests.billing.support import Billing

START = datetime(2028, 1, 31, 10, tzinfo=UTC)
HOME = "https://app.example.com"


@dataclass
class Shop:
    """Payments on the local provider, and one account."""

    billing: Billing
    account_id: str
    now: datetime = START
    payments: Payments = field(init=False)

    def __post_init__(self) -> None:
        billing = self.billing
        parts = PaymentParts(
            *(billing.database, billing.accounts, billing.grants, billing.effects, PLANS, billing.new_id, "here"),
            now=lambda: self.now,
        )
        rules = PaymentRules(FlowRules(500, 100_000, 2_000, frozenset({HOME}), HOME), "free", timedelta(days=10), HOME)
        self.payments = make_payments(parts, rules, local_provider(parts, HOME))
        effects = billing.effects
        self.recovery = Recovery(billing.database, self.payments.subscriptions, effects, "this", lambda: self.now)

    async def standing(self) -> tuple[str, str, str]:
        """Plan, status and balance once all events are looked into."""
        provider = self.payments.provider
        assert isinstance(provider, LocalProvider)
        await provider.run_once()
        while await self.payments.events.round():
            pass
        await self.recovery.round()
        account = await self.billing.accounts.get(self.account_id)
        return account.plan, account.status, format_usd(account.balance_nano)

    async def buy(self, plan: str, key: str) -> None:
        """Pay for a plan on the provider's page."""
        order = await self.payments.flows.checkout(Wanted(self.account_id, key, plan=plan))
        assert order.url is not None
        await self.act(order.url, "approve")

    async def act(self, url: str, action: str) -> None:
        assert self.payments.acts is not None
        await self.payments.acts.act(url.rpartition("/")[2], action)

    async def on_portal(self, action: str) -> None:
        await self.act((await self.payments.flows.portal(self.account_id, None)).url, action)

    async def told(self) -> list[str]:
        rows = await self.billing.database.rows("SELECT type FROM notices ORDER BY created_at, id")
        return [row["type"] for row in rows]


async def test_a_plan_is_bought_changed_not_paid_recovered_and_ended(billing: Billing) -> None:
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    change = shop.payments.changes.change
    with pytest.raises(NoSubscription):
        await change(shop.account_id, "pro")
    await shop.buy("starter", "first")
    assert await shop.standing() == ("starter", "active", "50.00")
    (order,) = (await shop.payments.orders.page(10)).items
    assert (order.status, order.plan) == ("credited", "starter")
    with pytest.raises(OrderConflict):
        await shop.buy("pro", "second")
    with pytest.raises(SubscriptionRefused):
        await change(shop.account_id, "unheard")

    # Dearer at once: the account has the plan when the call is answered.
    shop.now = datetime(2028, 2, 15, 10, tzinfo=UTC)
    seen = await change(shop.account_id, "pro")
    assert (seen.plan, (await billing.accounts.get(shop.account_id)).plan) == ("pro", "pro")
    plan, status, balance = await shop.standing()
    assert (plan, status) == ("pro", "active")
    assert 90 < float(balance) < 105  # about half of the difference of 100

    # Cheaper with the next period, on the last day of February, with the credit of the new plan.
    waits = await change(shop.account_id, "starter")
    assert (waits.plan, waits.next_plan) == ("pro", "starter")
    shop.now = datetime(2028, 2, 29, 10, 1, tzinfo=UTC)
    plan, status, renewed = await shop.standing()
    assert (plan, status) == ("starter", "active")
    assert float(renewed) - float(balance) == pytest.approx(50)

    # A card that does not pay: past due, then free, then paid on the portal and back at once.
    await shop.on_portal("save:visa 9995")
    shop.now = datetime(2028, 3, 31, 10, 1, tzinfo=UTC)
    assert (await shop.standing())[:2] == ("starter", "past_due")
    shop.now += timedelta(days=10)
    assert (await shop.standing())[:2] == ("free", "active")
    subscription = await shop.payments.changes.current(shop.account_id)
    assert subscription is not None
    await shop.on_portal("save:visa 4242")
    await shop.on_portal(f"pay:{subscription.id}")
    plan, status, paid = await shop.standing()
    assert (plan, status) == ("starter", "active")
    assert float(paid) - float(renewed) == pytest.approx(50)

    # Ended with its period, which the plan that it has takes back, and then ended indeed.
    assert (await change(shop.account_id, "free")).ends_at is not None
    assert (await change(shop.account_id, "starter")).ends_at is None
    ending = await change(shop.account_id, "free")
    assert ending.ends_at is not None
    shop.now = ending.ends_at + timedelta(minutes=1)
    assert await shop.standing() == ("free", "active", paid)
    told = await shop.told()
    for type_ in ("subscription.past_due", "subscription.ended", "payment.failed", "payment.succeeded"):
        assert type_ in told
