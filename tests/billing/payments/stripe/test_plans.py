"""Payments put together on Stripe: what somebody asks to buy, at the fake's pages, by its events."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from billing import audit
from billing.money import parse_usd
from billing.payments.assembly import Payments, make_payments
from billing.payments.auto_recharge import Wish
from billing.payments.flows import Wanted
from billing.payments.orders import NewOrder, OrderRefused
from billing.payments.port import ObjectRef, PaymentProviderUnavailable
from billing.payments.stripe.objects import REFUND
from billing.payments.stripe.provider import StripePayments
from billing.plans import Plan
from tests.billing.payments.stripe.conftest import DEPLOYMENT
from tests.billing.payments.support import parts_of, rules_of
from tests.billing.support import Billing
from tests.support.stripe_fake import VISA, FakeStripe, signed, thin

PLANS = {
    "free": Plan("free", "Free", 0),
    "starter": Plan(
        "starter", "Starter", parse_usd("99"), included_credit_nano=parse_usd("20"), stripe_price="price_s"
    ),
}


@pytest.fixture
def payments(stripe: FakeStripe, provider: StripePayments, billing: Billing) -> Payments:
    stripe.subscriptions.add_price("price_s", 9900)
    now = {"now": lambda: datetime.fromtimestamp(stripe.state.now, UTC)}
    parts = parts_of(billing, PLANS, deployment=DEPLOYMENT, **now)
    return make_payments(parts, rules_of("https://app.test"), provider)


async def deliver_all(payments: Payments, stripe: FakeStripe, seed: int) -> None:
    """Deliver all events that there have been, some twice and some thin, in an order of chance."""
    chosen = random.Random(seed)  # noqa: S311 - the order of a test's events
    events = [*stripe.state.events, *map(thin, stripe.state.events)]
    chosen.shuffle(events)
    for event in events:
        body, headers = signed(event, stripe.secret, at=stripe.state.now)
        await payments.events.receive(body, headers)
    await payments.events.round()


async def test_plan_is_credited_once_a_period(stripe, billing, account, payments):
    """Trap 2: a session, a payment and an invoice all tell of the same money; each period brings its credit once."""
    order = await payments.flows.checkout(Wanted(account.id, "k", plan="starter"))
    stripe.pages.pay(order.checkout_id or "")
    for seed in range(2):
        await deliver_all(payments, stripe, seed)
        now = await billing.accounts.get(account.id)
        assert (now.plan, now.balance_nano) == ("starter", parse_usd("20"))
    subscription = stripe.state.all("subscription")[0]["id"]
    stripe.subscriptions.renew(subscription)
    await deliver_all(payments, stripe, 2)
    rows = await billing.database.rows("SELECT idempotency_key FROM transfers WHERE kind = 'subscription'")
    invoices = {f"stripe:in:{each['id']}" for each in stripe.state.all("invoice")}
    assert {row["idempotency_key"].rpartition(":")[0] for row in rows} == invoices
    assert len(rows) == 2
    stripe.pages.cancel_in_portal(subscription)
    stripe.subscriptions.renew(subscription)
    await deliver_all(payments, stripe, 3)
    assert (await billing.accounts.get(account.id)).plan == "free"
    first, second = [each["id"] for each in stripe.state.all("payment_intent")]
    await payments.provider.refund(first, 4950, "half")
    stripe.payments.dispute(second)
    await deliver_all(payments, stripe, 4)
    now = await billing.accounts.get(account.id)
    assert (now.balance_nano, now.status) == (parse_usd("10"), "suspended")  # of 40: half of 20, and all of 20
    assert (await payments.comparisons.compare(datetime(2026, 1, 1, tzinfo=UTC))) > 0
    assert await payments.comparisons.listed() == []


async def test_customer_is_made_once_and_anew_when_it_is_gone(stripe, account, payments):
    """Trap 17: calls that race make one customer; one that was deleted at Stripe is made anew, once."""
    wanted = [Wanted(account.id, f"k{number}", parse_usd("25")) for number in range(3)]
    orders = await asyncio.gather(*map(payments.flows.checkout, wanted))
    assert {each.customer_id for each in orders} == {stripe.state.all("customer")[0]["id"]}
    assert stripe.count("customer") == 1
    stripe.payments.delete_customer(orders[0].customer_id or "")
    again = await payments.flows.checkout(Wanted(account.id, "later", parse_usd("25")))
    assert again.url is not None
    assert stripe.count("customer") == 2


async def test_customer_whose_making_has_failed_is_made_under_another_key(stripe, billing, payments):
    """Stripe answers a stored 500 again for a day, and refuses a key that was used with another name."""
    failed, renamed = [await billing.accounts.create(name) for name in ("Acme", "Beta")]
    stripe.faults.append("fail")
    with pytest.raises(PaymentProviderUnavailable):
        await payments.flows.portal(failed.id, None)
    assert stripe.count("customer") == 0
    await asyncio.gather(*(payments.flows.portal(failed.id, None) for _ in range(3)))
    assert stripe.count("customer") == 1
    stripe.faults.append("lose_answer")
    with pytest.raises(PaymentProviderUnavailable):
        await payments.flows.portal(renamed.id, None)
    await billing.database.execute("UPDATE accounts SET name = 'Gamma' WHERE id = $1", renamed.id)
    await payments.flows.portal(renamed.id, None)
    kept = await billing.database.rows("SELECT generation, customer_id FROM payment_customers ORDER BY account_id")
    assert [each["generation"] for each in kept] == [2, 2]
    assert {each["customer_id"] for each in kept} == {stripe.state.all("customer")[number]["id"] for number in (0, 2)}


async def test_money_moves_once_whatever_became_of_the_key(stripe, billing, account, payments):
    """Trap 12: Stripe answers a key by its own failure for a day, and has forgotten it afterwards."""
    customer = await payments.customers.ensure(account.id, "Acme")
    stripe.payments.save_card(customer, VISA)
    order = await payments.orders.create(NewOrder(account.id, "recharge", 5000, "recharge:1"))
    stripe.faults.extend([None, None, "fail"])  # the customer and its methods are read first
    for _ in range(2):  # the second one is told the same again, and gives the key up
        with pytest.raises(PaymentProviderUnavailable):
            await payments.flows.charge(order)
    assert await payments.flows.find(order) is None
    stripe.faults.extend([None, None, "lose_answer"])
    with pytest.raises(PaymentProviderUnavailable):
        await payments.flows.charge(order)
    found = await payments.flows.find(order)  # at once, though a search is a minute behind
    assert (found.status, stripe.count("payment_intent")) == ("paid", 1)

    stripe.faults.extend([None, "fail"])
    for _ in range(2):
        with pytest.raises(PaymentProviderUnavailable):
            await payments.admin.refund(order.id, 1000, "a" * 255)
    first = await payments.admin.refund(order.id, 1000, "a" * 255)
    stripe.faults.extend([None, "lose_answer"])
    with pytest.raises(PaymentProviderUnavailable):
        await payments.admin.refund(order.id, 1000, "b")
    with pytest.raises(OrderRefused, match=r"30\.00 USD are left"):  # what was asked for is not asked for twice
        await payments.admin.refund(order.id, 3001, "c")
    stripe.state.now += 2 * 86_400
    second = await payments.admin.refund(order.id, 1000, "b")
    assert {first.id, second.id} == {each["id"] for each in stripe.state.all("refund")}
    assert (await billing.accounts.get(account.id)).balance_nano == parse_usd("30")


async def test_a_refund_whose_answer_was_lost_is_found_by_its_name(stripe, billing, payments):
    """One of the dashboard, for as much, is not taken for it."""
    stripe.state.now = int(datetime.now(UTC).timestamp())
    account = await billing.accounts.create("Acme")
    order = await payments.flows.checkout(Wanted(account.id, "k", parse_usd("50")))
    stripe.pages.pay(order.checkout_id or "", VISA)
    await deliver_all(payments, stripe, 0)
    paid = {"payment_intent": stripe.state.all("payment_intent")[0]["id"], "amount": 1000}
    ask = "INSERT INTO order_refunds (order_id, key, amount_cents, refund_id, created_at) VALUES ($1, $2, 1000, $3, $4)"
    began = datetime.now(UTC) - timedelta(minutes=1)
    stripe.payments.create_refund(paid | {"metadata": {}})
    for key in ("known", "unknown"):
        made = stripe.payments.create_refund(paid | {"metadata": {REFUND: f"{order.id}:refund:{key}"}})
        await billing.database.execute(ask, order.id, key, made["id"] if key == "known" else None, began)
    stripe.state.now += 2 * 86_400
    await deliver_all(payments, stripe, 1)
    with pytest.raises(OrderRefused, match=r"10\.00 USD are left: .* ask again by the keys unknown\."):
        await payments.admin.refund(order.id, 1001, "new")
    assert (await payments.admin.refund(order.id, None, "unknown")).id == made["id"]
    assert stripe.count("refund") == 3
    await payments.admin.refund(order.id, 1000, "new")  # for as much: it is not taken for another's
    assert stripe.count("refund") == 4
    assert (await billing.accounts.get(account.id)).balance_nano == parse_usd("10")


async def test_a_charge_that_is_never_confirmed_is_canceled_and_ends_its_attempt(stripe, billing, account, payments):
    customer = await payments.customers.ensure(account.id, "Acme")
    stripe.payments.save_card(customer, VISA)
    await payments.applier.refresh(ObjectRef("customer", customer))
    await payments.recharges.put(account.id, Wish(True, 10**9, 2000, 10_000), actor=audit.ADMIN)
    stripe.payments.unconfirmed = True

    async def standing():
        recharge = await payments.recharges.get(account.id)
        return recharge.state, recharge.reason

    for minutes in (0, 5, 30):
        stripe.state.now += 60 * minutes
        assert await payments.auto_recharge.round() == 1
        assert await standing() == ("charging", None)
    stripe.state.now += 1800
    assert await payments.auto_recharge.round() == 1
    (intent,) = stripe.state.all("payment_intent")
    assert (intent["status"], await standing()) == ("canceled", ("waiting", "canceled"))
    assert [each.status for each in (await payments.orders.page(5)).items] == ["failed"]
    stripe.state.now += 3600
    await payments.auto_recharge.round()
    stripe.payments.comes_before_cancel = True
    stripe.state.now += 3600
    await payments.auto_recharge.round()
    assert await standing() == ("ready", None)
    assert (await billing.accounts.get(account.id)).balance_nano == parse_usd("20")


async def test_pages_and_ends_are_asked_for_anew_where_a_failure_was_kept(stripe, account, payments):
    await payments.customers.ensure(account.id, "Acme")
    stripe.faults.append("fail")
    with pytest.raises(PaymentProviderUnavailable):
        await payments.flows.checkout(Wanted(account.id, "first", plan="starter"))
    first = await payments.flows.checkout(Wanted(account.id, "first", plan="starter"))
    stripe.faults.extend([None, "fail"])  # the new page opens, and the old one does not close
    with pytest.raises(PaymentProviderUnavailable):
        await payments.flows.checkout(Wanted(account.id, "second", plan="starter"))
    second = await payments.flows.checkout(Wanted(account.id, "second", plan="starter"))
    pages = {each["id"]: each["status"] for each in stripe.state.all("checkout.session")}
    assert pages == {first.checkout_id: "expired", second.checkout_id: "open"}

    stripe.pages.pay(second.checkout_id or "")
    await deliver_all(payments, stripe, 0)
    paid = ObjectRef("payment", stripe.state.all("payment_intent")[0]["id"])
    await payments.provider.refund(paid.id, 9900, "all")
    stripe.faults.extend([*[None] * 7, "fail"])  # the payment with its parts is read, and the subscription
    with pytest.raises(PaymentProviderUnavailable):
        await payments.applier.refresh(paid)
    await payments.applier.refresh(paid)
    assert stripe.state.all("subscription")[0]["status"] == "canceled"


async def test_other_amounts_and_currencies_wait_for_an_operator(stripe, billing, account, payments):
    """Traps 9, 10, 11: what was not asked for is parked, seen and never credited by itself."""
    for number, changes in enumerate(({"currency": "eur"}, {"amount_subtotal": 2400})):
        order = await payments.flows.checkout(Wanted(account.id, f"k{number}", parse_usd("25")))
        session = stripe.state.get("checkout.session", order.checkout_id or "")
        session |= {name: value for name, value in changes.items() if name != "currency"}
        intent = stripe.payments.new_intent(2500, order.customer_id, session["metadata"])
        intent["currency"] = changes.get("currency", "usd")
        session["payment_intent"] = intent["id"]
        stripe.pages.pay(session["id"], VISA)
    await deliver_all(payments, stripe, 0)
    parked = (await payments.orders.dead_letters(10)).items
    assert {each.reason for each in parked} == {
        "it was paid in eur, not in usd",
        "2400 cents were paid of an order of 2500",
    }
    assert (await billing.accounts.get(account.id)).balance_nano == 0
    assert {each.status for each in (await payments.orders.page(10)).items} == {"parked"}
