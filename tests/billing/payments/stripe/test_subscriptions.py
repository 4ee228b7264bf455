"""Plans at Stripe, on the fake: where fields are now, changes at once and at the end of a period, and their payment."""

from datetime import UTC, datetime

from billing.payments.port import Invoice, ObjectRef, Purchase
from tests.billing.payments.stripe.conftest import DEPLOYMENT
from tests.billing.payments.stripe.test_provider import URLS, customer_of, payment
from tests.support.stripe_fake import SECURE


async def test_invoice_and_subscription_of_a_plan(stripe, provider):
    """Traps 2, 7, 8, 19: where the fields are now; an invoice's payment is known as its invoice's."""
    stripe.subscriptions.add_price("price_starter", 9900)
    stripe.subscriptions.add_price("price_pro", 29900)
    customer = await customer_of(provider)
    plan = Purchase("01JPLAN", "acc-1", customer, "plan", 9900, "Starter", "price_starter")
    page = await provider.checkout(plan, URLS, "01JPLAN:checkout")
    session = stripe.pages.pay(page.id)
    subscription = stripe.state.get("subscription", session["subscription"])
    invoice = await provider.fetch(ObjectRef("invoice", subscription["latest_invoice"]))
    assert isinstance(invoice, Invoice)
    assert (invoice.status, invoice.order_id, invoice.deployment) == ("paid", "01JPLAN", DEPLOYMENT)
    assert (invoice.subscription_id, invoice.amount_cents) == (subscription["id"], 9900)
    line = invoice.lines[0]
    assert (line.kind, line.amount_cents, line.price_id) == ("subscription", 9900, "price_starter")
    assert (line.period_start.day, line.period_end.day) == (31, 28)  # January's end, and February's
    assert invoice.payment_id is not None
    paid = await payment(provider, invoice.payment_id)
    assert (paid.status, paid.invoice_id, paid.order_id, paid.deployment) == ("paid", invoice.id, "01JPLAN", DEPLOYMENT)
    assert paid.amount_cents == 9900

    started = await provider.resume(subscription["id"], "01JPLAN:resume:0")  # nothing to take back
    assert (started.status, started.price_id, started.ends_at) == ("active", "price_starter", None)
    stripe.pages.cancel_in_portal(subscription["id"])
    ending = await provider.fetch(ObjectRef("subscription", subscription["id"]))
    assert not ending.cancel_at_period_end
    assert ending.ends_at == started.period_end
    assert (await provider.resume(subscription["id"], "01JPLAN:resume:1")).ends_at is None
    assert (await provider.cancel(subscription["id"], "period_end", "01JPLAN:cancel")).ends_at == started.period_end
    assert (await provider.resume(subscription["id"], "01JPLAN:resume:2")).ends_at is None


async def test_plan_goes_up_at_once_and_down_at_the_periods_end(stripe, provider):
    for name, cents in (("price_starter", 9900), ("price_pro", 29900)):
        stripe.subscriptions.add_price(name, cents)
    plan = Purchase("01JPLAN", "acc-1", await customer_of(provider), "plan", 9900, "Starter", "price_starter")
    session = stripe.pages.pay((await provider.checkout(plan, URLS, "01JPLAN:checkout")).id)
    subscription = session["subscription"]
    stripe.state.now += 14 * 86_400  # half of the period
    up = await provider.change_plan(subscription, "price_pro", "now", "01JUP:change")
    assert up.price_id == "price_pro"
    invoice = await provider.fetch(ObjectRef("invoice", up.latest_invoice_id or ""))
    assert isinstance(invoice, Invoice)
    assert (invoice.status, [each.kind for each in invoice.lines]) == ("paid", ["proration"] * 2)
    assert [each.amount_cents for each in invoice.lines] == [-4950, 14950]
    assert invoice.amount_cents == 10_000

    down = await provider.change_plan(subscription, "price_starter", "period_end", "01JDOWN:change")
    assert (down.price_id, down.next_price_id) == ("price_pro", "price_starter")
    assert (await provider.resume(subscription, "01JDOWN:resume")).next_price_id is None
    await provider.change_plan(subscription, "price_starter", "period_end", "01JDOWN:again")
    stripe.subscriptions.renew(subscription)
    renewed = await provider.fetch(ObjectRef("subscription", subscription))
    assert (renewed.price_id, renewed.period_start) == ("price_starter", down.period_end)
    ended = await provider.cancel(subscription, "now", "01JEND:cancel")
    assert (ended.status, ended.ended_at) == ("canceled", datetime.fromtimestamp(stripe.state.now, UTC))


async def test_upgrade_waits_for_its_payment(stripe, provider):
    for name, cents in (("price_starter", 9900), ("price_pro", 29900)):
        stripe.subscriptions.add_price(name, cents)
    plan = Purchase("01JPLAN", "acc-1", await customer_of(provider), "plan", 9900, "Starter", "price_starter")
    session = stripe.pages.pay((await provider.checkout(plan, URLS, "01JPLAN:checkout")).id)
    subscription = stripe.state.get("subscription", session["subscription"])
    method = stripe.payments.save_card(session["customer"], SECURE)
    subscription["default_payment_method"] = method["id"]
    same = await provider.change_plan(subscription["id"], "price_pro", "now", "01JUP:change")
    assert same.price_id == "price_starter"
    invoice = await provider.fetch(ObjectRef("invoice", same.latest_invoice_id or ""))
    assert isinstance(invoice, Invoice)
    assert (invoice.status, invoice.attempts) == ("open", 1)
    assert invoice.hosted_url is not None
    assert invoice.payment_id is not None
    assert (await payment(provider, invoice.payment_id)).status == "requires_action"
