"""Plans bought from the local provider, through every part that payments have, by a clock that is moved."""

import asyncio
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from billing.money import format_usd
from billing.payments.assembly import Payments
from billing.payments.flows import Wanted
from billing.payments.local.provider import LocalProvider
from billing.payments.orders import Order, OrderConflict, OrderRefused
from billing.payments.port import ObjectRef, PaymentProviderUnavailable
from billing.payments.stripe.provider import AccessRefused
from billing.payments.subscriptions import NoSubscription, Recovery, SubscriptionRefused
from tests.billing.payments.support import local_payments
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
        self.payments = local_payments(self.billing, PLANS, HOME, now=lambda: self.now)
        notifier, subscriptions = self.billing.change_notifier, self.payments.subscriptions
        self.recovery = Recovery(self.billing.database, subscriptions, notifier, "this")

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
        await self.payments.acts.act(url.rpartition("/")[2], action)

    async def on_portal(self, action: str) -> None:
        await self.act((await self.payments.flows.portal(self.account_id, None)).url, action)

    async def told(self) -> list[str]:
        rows = await self.billing.database.rows("SELECT type FROM notices ORDER BY created_at, id")
        return [row["type"] for row in rows]


async def test_a_plan_is_bought_changed_not_paid_recovered_and_ended(billing):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    change = shop.payments.changes.change
    with pytest.raises(NoSubscription):
        await change(shop.account_id, "pro")
    left = await shop.payments.flows.checkout(Wanted(shop.account_id, "left", plan="pro"))
    await shop.buy("starter", "first")
    with pytest.raises(OrderConflict):  # paid for, though nobody has looked into that yet
        await shop.buy("pro", "early")
    await shop.act(left.url or "", "approve")  # another page has taken its place
    assert await shop.standing() == ("starter", "active", "50.00")
    orders = (await shop.payments.orders.page(10)).items
    found = [(order.status, order.plan) for order in orders]
    assert found == [("expired", "pro"), ("credited", "starter"), ("expired", "pro")]
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


async def test_included_credit_goes_with_the_money_that_brought_it(billing):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    order = await shop.payments.flows.checkout(Wanted(shop.account_id, "first", plan="starter"))
    assert order.url is not None
    await shop.act(order.url, "approve")
    assert (await shop.standing())[2] == "50.00"
    await shop.payments.admin.refund(order.id, 4950, "half")
    assert (await shop.standing())[2] == "25.00"
    await billing.grants.adjust(shop.account_id, -20_000_000_000, "used", "debits")
    await shop.act(order.url, "refund")  # takes what is left
    assert (await shop.standing())[2] == "0.00"
    await shop.act(order.url, "fail_refund")  # gives it back, on its old terms
    assert (await shop.standing())[2] == "5.00"
    lots = await billing.database.rows("SELECT expires_at, left_now FROM lots_now WHERE left_now > 0")
    assert [(lot["expires_at"], lot["left_now"]) for lot in lots] == [
        (datetime(2028, 2, 29, 10, tzinfo=UTC), 5 * 10**9)
    ]
    await shop.act(order.url, "dispute")  # of the other half: the whole share, as debt
    assert (await shop.standing())[1:] == ("suspended", "-20.00")
    await shop.act(order.url, "win")
    assert (await shop.standing())[1:] == ("active", "5.00")


async def test_a_lost_dispute_of_an_invoice_ends_the_plan_and_its_renewals(billing, monkeypatch):
    async def no_access(*_):
        raise AccessRefused("the operator's key is wrong")

    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    order = await shop.payments.flows.checkout(Wanted(shop.account_id, "first", plan="starter"))
    assert order.url is not None
    await shop.act(order.url, "approve")
    await shop.standing()
    await shop.act(order.url, "dispute")
    assert await shop.standing() == ("starter", "suspended", "0.00")  # the period's credit; it may still be won
    shop.now += timedelta(days=32)
    assert (await shop.standing())[0] == "starter"
    invoices = "SELECT count(*) FROM local_objects WHERE kind = 'invoice'"
    assert await billing.database.value(invoices) == 2
    # Lost for a period that is over, by when the page is gone: a part ends nothing, of the whole no other is charged.
    lose = "UPDATE local_objects SET state = state || $1 WHERE kind = 'dispute' RETURNING id"
    for cents, plan in ((9899, "starter"), (9900, "free")):
        lost = await billing.database.value(lose, {"status": "lost", "amount_cents": cents})
        if plan == "free":  # tried again until the operator has mended the key
            with monkeypatch.context() as patched:
                patched.setattr(shop.payments.provider, "cancel", no_access)
                with pytest.raises(AccessRefused):
                    await shop.payments.applier.refresh(ObjectRef("dispute", lost))
        await shop.payments.applier.refresh(ObjectRef("dispute", lost))
        assert (await shop.standing())[:2] == (plan, "suspended")
    assert await shop.payments.changes.current(shop.account_id) is None
    shop.now += timedelta(days=32)
    await shop.standing()
    assert await billing.database.value(invoices) == 2


async def test_changes_to_and_fro_make_no_credit(billing):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    await shop.buy("starter", "first")
    await shop.standing()
    subscription = await shop.payments.changes.current(shop.account_id)
    assert subscription is not None
    for _ in range(3):
        await shop.on_portal(f"upgrade:{subscription.id}:pro")
        assert (await shop.standing())[2] == "150.00"
        await billing.grants.adjust(shop.account_id, -140_000_000_000, f"used {billing.new_id()}", "debits")
        await shop.on_portal(f"upgrade:{subscription.id}:price_s")  # the money of it comes back: so does its credit
        assert (await shop.standing())[2] == "-90.00"
        await billing.grants.adjust(shop.account_id, 140_000_000_000, f"back {billing.new_id()}", "debits")


async def test_of_two_pages_for_plans_one_can_be_paid(billing, monkeypatch):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    checkout = shop.payments.flows.checkout
    plans = enumerate(("starter", "pro", "starter", "pro"))
    asked = [checkout(Wanted(shop.account_id, f"at once {n}", plan=plan)) for n, plan in plans]
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, Order | OrderConflict) for each in done)
    await checkout(Wanted(shop.account_id, "last", plan="starter"))
    orders = (await shop.payments.orders.page(9)).items
    for order in orders:
        if order.url is not None:
            await shop.act(order.url, "approve")
    assert await shop.standing() == ("starter", "active", "50.00")
    rows = await billing.database.rows("SELECT id FROM subscriptions")
    assert len(rows) == 1

    # What the provider knows to be paid, and we do not yet, is seen before another page is given out.
    late = Shop(billing, (await billing.accounts.create("Late")).id)
    await late.buy("starter", "first")

    async def away(page):
        raise PaymentProviderUnavailable("it is away")

    with monkeypatch.context() as patched:  # broken off once its own page was open
        patched.setattr(late.payments.flows, "_close", away)
        with pytest.raises(PaymentProviderUnavailable):
            await late.payments.flows.checkout(Wanted(late.account_id, "second", plan="pro"))
    with pytest.raises(OrderConflict, match="just now"):
        await late.payments.flows.checkout(Wanted(late.account_id, "second", plan="pro"))
    second = (await late.payments.orders.page(1, account_id=late.account_id)).items[0]
    assert (second.plan, second.status) == ("pro", "expired")


async def test_a_refund_is_made_once_however_it_is_repeated(billing, monkeypatch):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    order = await shop.payments.flows.checkout(Wanted(shop.account_id, "credit", amount_nano=20_000_000_000))
    assert order.url is not None
    await shop.act(order.url, "approve")
    await shop.standing()
    await billing.grants.adjust(shop.account_id, -10_000_000_000, "used", "debits")
    admin = shop.payments.admin

    async def away(ref):
        raise PaymentProviderUnavailable("it is away")

    with monkeypatch.context() as patched:  # made at the provider, not yet taken from the balance
        patched.setattr(admin, "refresh", away)
        with pytest.raises(PaymentProviderUnavailable):
            await admin.refund(order.id, 1000, "first")
    with pytest.raises(OrderRefused, match=r"0\.00 USD are left"):
        await admin.refund(order.id, 1000, "second")
    first = await admin.refund(order.id, 1000, "first")
    await billing.database.execute("DELETE FROM local_keys")  # the provider forgets its keys after a day
    assert (await admin.refund(order.id, 1000, "first")).id == first.id
    assert (await shop.standing())[2] == "0.00"
    assert await billing.database.value("SELECT count(*) FROM local_objects WHERE kind = 'refund'") == 1


async def test_a_plan_ends_with_the_money_that_paid_for_it(billing):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    flows, changes, admin = shop.payments.flows, shop.payments.changes, shop.payments.admin
    await shop.buy("starter", "first")
    assert await shop.standing() == ("starter", "active", "50.00")
    order = await flows.checkout(Wanted(shop.account_id, "first", plan="starter"))  # the first answer again
    assert order.status == "credited"
    await admin.refund(order.id, 4950, "part")
    assert (await shop.standing())[0] == "starter"
    await admin.refund(order.id, None, "rest")
    assert (await billing.accounts.get(shop.account_id)).plan == "free"
    assert await shop.standing() == ("free", "active", "0.00")
    assert (await shop.payments.orders.get(order.id)).status == "refunded"
    assert await changes.current(shop.account_id) is None

    # An invoice of a period that is over ends nothing.
    await shop.buy("starter", "second")
    assert (await shop.standing())[0] == "starter"
    shop.now += timedelta(days=32)
    assert (await shop.standing())[0] == "starter"
    order = await flows.checkout(Wanted(shop.account_id, "second", plan="starter"))
    await admin.refund(order.id, None, "late")
    assert (await shop.standing())[0] == "starter"

    for status in ("suspended", "closed"):
        await billing.accounts.update(shop.account_id, status=status)
        with pytest.raises(SubscriptionRefused, match=f"account is {status}"):
            await changes.change(shop.account_id, "pro")
    ended = await changes.change(shop.account_id, "free")
    assert ended.ends_at is not None


async def test_abandoned_pages_are_closed_and_a_closed_account_gets_no_credit(billing):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    flows, orders = shop.payments.flows, shop.payments.orders
    flows.rules = replace(flows.rules, open_pages=2)
    asked = [Wanted(shop.account_id, f"key {number}", amount_nano=20_000_000_000) for number in range(4)]
    opened = [await flows.checkout(each) for each in asked]
    page = await orders.page(9, account_id=shop.account_id)
    assert [each.status for each in page.items] == ["open", "open", "expired", "expired"]
    assert opened[0].url is not None
    assert opened[3].url is not None
    await shop.act(opened[0].url, "approve")  # it is closed there, too
    assert (await shop.standing())[2] == "0.00"

    await billing.accounts.update(shop.account_id, status="closed")
    with pytest.raises(OrderRefused, match="closed"):
        await flows.checkout(replace(asked[0], idempotency_key="another"))
    assert (await flows.checkout(asked[3])).url == opened[3].url
    await shop.act(opened[3].url, "approve")
    assert (await shop.standing())[1:] == ("closed", "0.00")
    [parked] = (await orders.dead_letters(9)).items
    assert (parked.order_id, parked.reason) == (opened[3].id, "the account is closed")


async def test_what_was_credited_by_hand_is_taken_back_by_its_refund(billing):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    order = await shop.payments.flows.checkout(Wanted(shop.account_id, "key", amount_nano=20_000_000_000))
    assert order.url is not None
    await shop.act(order.url, "approve")
    # As of a payment that was made in the provider's dashboard: no order of ours is named there.
    await billing.database.execute(
        "UPDATE local_objects SET state = state || '{\"order_id\": null}' WHERE kind = 'payment'"
    )
    await billing.database.execute("DELETE FROM payment_events WHERE ref_kind = 'checkout'")
    assert (await shop.standing())[2] == "0.00"
    [parked] = (await shop.payments.orders.dead_letters(9)).items
    assert (parked.order_id, parked.account_id) == (None, shop.account_id)
    await shop.payments.admin.credit(parked.id, None, "it is theirs")
    assert (await shop.standing())[2] == "20.00"
    await shop.act(order.url, "refund_half")
    assert (await shop.standing())[2] == "10.00"
    await shop.act(order.url, "dispute")
    assert (await shop.standing())[1:] == ("suspended", "0.00")


async def test_what_a_dead_gateway_was_looking_into_goes_on_at_once(billing):
    """A claimed event waits for a minute; once the lease of the gateway that claimed it has ended, another one
    processes it at once."""
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    order = await shop.payments.flows.checkout(Wanted(shop.account_id, "key", amount_nano=20_000_000_000))
    assert order.url is not None
    await shop.act(order.url, "approve")
    renew = "INSERT INTO gateways (id, lease_until) VALUES ('gw_1', now() + interval '1 hour')"
    await billing.database.execute(renew)
    claim = "UPDATE payment_events SET claimed_by = 'gw_1', next_attempt_at = now() + interval '1 minute'"
    await billing.database.execute(claim)
    assert await shop.payments.events.round() == 0
    await billing.database.execute("UPDATE gateways SET ended_at = now()")
    assert await shop.payments.events.round() > 0
    assert (await shop.payments.orders.get(order.id)).status == "credited"


async def looked_at(shop: Shop, seed: int | None) -> tuple[object, ...]:
    """What a plan bought, changed, not paid, paid and canceled comes to, where its events come in some order of their
    own: some early, some late, some twice and some not at all; without a seed each at once."""
    chosen = random.Random(seed)  # noqa: S311 - the order of a test's events
    provider, database = shop.payments.provider, shop.billing.database
    assert isinstance(provider, LocalProvider)
    provider.receiver = None  # nothing is told but by `some`

    async def some(*, all_of_it: bool) -> None:
        rows = await database.rows("SELECT kind, id FROM local_objects WHERE kind <> 'purchase'")
        refs = [ObjectRef(row["kind"], row["id"]) for row in rows]
        chosen.shuffle(refs)
        for ref in (*refs, *refs[::2]) if all_of_it else refs[: chosen.randrange(len(refs))]:
            await shop.payments.applier.refresh(ref)

    await shop.buy("starter", "first")
    await some(all_of_it=seed is None)
    subscription_id = await database.value("SELECT max(id) FROM local_objects WHERE kind = 'subscription'")
    steps = (
        (timedelta(days=15), f"upgrade:{subscription_id}:pro"),
        (timedelta(), "save:visa 9995"),
        (timedelta(days=16), "renew"),
        (timedelta(hours=1), "save:visa 4242"),
        (timedelta(hours=1), f"pay:{subscription_id}"),
        (timedelta(days=1), f"cancel:{subscription_id}"),
    )
    for later, action in steps:
        shop.now += later
        if action == "renew":
            await provider.run_once()
        else:
            await shop.on_portal(action)
        await some(all_of_it=seed is None)
    await some(all_of_it=True)
    account = await shop.billing.accounts.get(shop.account_id)
    orders = (await shop.payments.orders.page(9, account_id=shop.account_id)).items
    in_force = await shop.payments.changes.in_force(shop.account_id)
    return (
        account.plan,
        account.status,
        account.balance_nano,
        in_force.standing,
        in_force.subscription.ends_at,
        [order.status for order in orders],
    )


async def test_any_order_and_repetition_of_events_ends_the_same(billing):
    ends = []
    for seed in (None, 1, 2):
        await billing.database.execute("DELETE FROM local_objects")
        ends.append(await looked_at(Shop(billing, (await billing.accounts.create("Acme")).id), seed))
    assert ends[0][:2] == ("pro", "active")
    assert ends[0][-1] == ["credited"]
    assert ends[0][2] > 200 * 10**9  # of the first month, of the upgrade and of the second month
    assert ends == [ends[0]] * len(ends)
