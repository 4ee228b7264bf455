"""Stripe behind the port, on the fake: pages, charges, refunds, disputes, plans, and calls that fail on the way."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.payments.port import (
    Checkout,
    CustomerGone,
    Dispute,
    NewCustomer,
    ObjectRef,
    Payment,
    PaymentProviderUnavailable,
    PaymentRefused,
    Purchase,
    Refund,
    ReturnUrls,
)
from billing.payments.stripe.objects import CheckoutRules
from billing.payments.stripe.provider import StripeAccess, StripePayments
from tests.billing.payments.stripe.conftest import DEPLOYMENT
from tests.support.stripe_fake import POOR, SECURE, STOLEN, VISA

URLS = ReturnUrls("https://app.test/paid", "https://app.test/back")


async def customer_of(provider: StripePayments) -> str:
    return await provider.ensure_customer(NewCustomer("acc-1", "Acme"), "customer:acc-1:1")


def credit(customer_id: str, order_id: str = "01JORDER", kind: str = "credit", save: bool = False) -> Purchase:
    return Purchase(order_id, "acc-1", customer_id, kind, 2500, "Credit", save_method=save)


async def payment(provider: StripePayments, payment_id: str) -> Payment:
    found = await provider.fetch(ObjectRef("payment", payment_id))
    assert isinstance(found, Payment)
    return found


async def test_complete_is_not_paid(stripe, provider):
    """Trap 4: money that takes days has not come when the page is complete, and may never come."""
    customer = await customer_of(provider)
    for order, ok, after in (("01JA", True, "paid"), ("01JB", False, "failed")):
        page = await provider.checkout(credit(customer, order), URLS, f"{order}:checkout")
        session = stripe.pages.pay(page.id, later=True)
        assert session["status"] == "complete"
        assert (await payment(provider, session["payment_intent"])).status == "processing"
        stripe.pages.settle(page.id, ok=ok)
        assert (await payment(provider, session["payment_intent"])).status == after


async def test_decline_leaves_a_page_open_and_its_end_cancels(stripe, provider):
    """Trap 20: a page that was replaced is closed, and whoever has it open can't pay any more."""
    page = await provider.checkout(credit(await customer_of(provider)), URLS, "01JORDER:checkout")
    session = stripe.pages.pay(page.id, POOR)
    declined = await payment(provider, session["payment_intent"])
    assert (declined.status, declined.decline_code, declined.hard) == ("open", "insufficient_funds", False)
    await provider.expire_checkout(page.id, "01JORDER:expire")
    await provider.expire_checkout(page.id, "01JORDER:expire:again")
    checkout = await provider.fetch(ObjectRef("checkout", page.id))
    assert isinstance(checkout, Checkout)
    assert checkout.status == "expired"
    assert (await payment(provider, session["payment_intent"])).status == "canceled"


async def test_taxes_are_no_credit(stripe):
    """Traps 9, 10, 19: the amount that was sold is separate from the amount that was paid; there is one currency."""
    access = StripeAccess(stripe.api_key, stripe.url, retries=0)
    rules = CheckoutRules(automatic_tax=True, tax_id_collection=True, invoice_creation=True)
    provider = StripePayments(access, (), DEPLOYMENT, lambda: datetime.now(UTC), rules)
    page = await provider.checkout(credit(await customer_of(provider)), URLS, "01JORDER:checkout")
    asked = stripe.state.get("checkout.session", page.id)["asked"]
    assert asked["adaptive_pricing"] == {"enabled": False}
    assert "allow_promotion_codes" not in asked
    paid = await payment(provider, stripe.pages.pay(page.id)["payment_intent"])
    assert (paid.amount_cents, paid.total_cents, paid.currency) == (2500, 3000, "usd")
    await provider.close()


async def test_charge_without_the_payer(stripe, provider):
    """Traps 13, 14: a decline is an answer; what needs the payer is no success, and hard codes say so."""
    customer = await customer_of(provider)
    nothing = await provider.charge(credit(customer, "01JA", "recharge"), "01JA:charge")
    assert (nothing.status, nothing.hard, nothing.decline_code) == ("failed", True, "no_payment_method")
    cards = ((VISA, "paid", None, False), (POOR, "failed", "insufficient_funds", False))
    cards += ((STOLEN, "failed", "stolen_card", True), (SECURE, "requires_action", "authentication_required", False))
    for card, status, code, hard in cards:
        stripe.payments.save_card(customer, card, default=True)
        order = f"01J{card.last4}"
        made = await provider.charge(credit(customer, order, "recharge"), f"{order}:charge")
        assert (made.status, made.decline_code, made.hard) == (status, code, hard)
        assert (made.order_id, made.amount_cents) == (order, 2500)
        again = await provider.charge(credit(customer, order, "recharge"), f"{order}:charge")
        assert again == made
        assert again == await payment(provider, made.id)
    assert stripe.count("payment_intent") == len(cards)


@pytest.mark.parametrize("fault", ["lose_answer", "fail"])
async def test_charge_whose_answer_is_lost(stripe, provider, fault):
    """Trap 12: within a day our key answers for it, a kept 500 too; later the order finds it by its metadata."""
    customer = await customer_of(provider)
    stripe.payments.save_card(customer, VISA)
    bought = credit(customer, "01JLOST", "recharge")
    stripe.faults.extend([None, None, fault])  # the customer and its methods are read first
    with pytest.raises(PaymentProviderUnavailable):
        await provider.charge(bought, "01JLOST:charge")
    if fault == "fail":
        with pytest.raises(PaymentProviderUnavailable):
            await provider.charge(bought, "01JLOST:charge")
        assert stripe.count("payment_intent") == 0
        return
    assert await provider.find_payment("01JLOST") is None  # the index is a minute behind: only the key is safe now
    assert (await provider.charge(bought, "01JLOST:charge")).status == "paid"
    stripe.payments.save_card(customer, POOR, default=True)  # the same charge would be another one now
    assert (await provider.charge(bought, "01JLOST:charge")).status == "paid"
    stripe.state.now += 2 * 86_400
    found = await provider.find_payment("01JLOST")
    assert found.status == "paid"
    assert stripe.count("payment_intent") == 1


async def test_calls_are_tried_again_under_their_key(stripe, monkeypatch):
    monkeypatch.setattr("stripe._http_client.HTTPClient.INITIAL_DELAY", 0.001)
    monkeypatch.setattr("stripe._http_client.HTTPClient.MAX_DELAY", 0.001)
    provider = StripePayments(StripeAccess(stripe.api_key, stripe.url), (), DEPLOYMENT, lambda: datetime.now(UTC))
    stripe.faults.extend(["lose_answer", "refuse"])
    await customer_of(provider)
    assert stripe.count("customer") == 1
    assert stripe.calls == ["POST /v1/customers"] * 3
    stripe.faults.append("busy")
    with pytest.raises(PaymentProviderUnavailable):
        await customer_of(provider)
    await provider.close()


async def test_customer_that_was_deleted(stripe, provider):
    """Trap 17: only a missing customer says so; a missing price has the same code, and is a setting."""
    customer = await customer_of(provider)
    plan = Purchase("01JPLAN", "acc-1", customer, "plan", 9900, "Starter", "price_none")
    with pytest.raises(PaymentRefused, match="price_none") as refused:
        await provider.checkout(plan, URLS, "01JPLAN:checkout")
    assert not isinstance(refused.value, CustomerGone)
    stripe.payments.delete_customer(customer)
    for call in (
        provider.checkout(credit(customer), URLS, "a"),
        provider.portal(customer, "https://app.test", "b"),
        provider.setup(customer, URLS, "c"),
        provider.charge(credit(customer, kind="recharge"), "d"),
    ):
        with pytest.raises(CustomerGone):
            await call
    assert await provider.fetch(ObjectRef("customer", customer)) is None


async def test_refunds_each_stand_alone(stripe, provider):
    """Trap 15: refunds are listed by themselves; one that fails is said to have, and its money is ours again."""
    customer = await customer_of(provider)
    page = await provider.checkout(credit(customer), URLS, "01JORDER:checkout")
    intent = stripe.pages.pay(page.id)["payment_intent"]
    first = await provider.refund(intent, 1000, "01JORDER:refund:1")
    assert first == await provider.refund(intent, 1000, "01JORDER:refund:1")
    second = await provider.refund(intent, 500, "01JORDER:refund:2")
    stripe.payments.end_refund(second.id, "failed")
    found = await payment(provider, intent)
    assert [(each.amount_cents, each.status) for each in found.refunds] == [(1000, "succeeded"), (500, "failed")]
    assert await provider.fetch(ObjectRef("refund", second.id)) == found.refunds[1]
    with pytest.raises(PaymentRefused, match="greater than unrefunded"):
        await provider.refund(intent, 2000, "01JORDER:refund:3")
    stripe.payments.dispute(intent)
    with pytest.raises(PaymentRefused, match="charged back"):
        await provider.refund(intent, 100, "01JORDER:refund:4")
    assert isinstance(await provider.fetch(ObjectRef("refund", first.id)), Refund)
    assert await provider.fetch(ObjectRef("refund", "re_none")) is None


async def test_disputes_move_money_by_their_transactions(stripe, provider):
    """Trap 16: a warning takes nothing; what is taken and brought back are transactions, without the fee."""
    customer = await customer_of(provider)
    intents = []
    for order in ("01JA", "01JB"):
        page = await provider.checkout(credit(customer, order), URLS, order)
        intents.append(stripe.pages.pay(page.id)["payment_intent"])
    warned = stripe.payments.dispute(intents[0], warning=True)
    assert [(each.status, each.movements) for each in (await payment(provider, intents[0])).disputes] == [
        ("warning", ())
    ]
    taken = stripe.payments.dispute(intents[1])
    found = await provider.fetch(ObjectRef("dispute", taken["id"]))
    assert isinstance(found, Dispute)
    assert (found.status, [each.amount_cents for each in found.movements]) == ("open", [-2500])
    taken["status"] = "appeal_under_review"  # a state that is newer than most handlers
    assert (await payment(provider, intents[1])).disputes[0].status == "open"
    stripe.payments.close_dispute(taken["id"], "won")
    stripe.payments.close_dispute(warned["id"], "prevented")
    won = (await payment(provider, intents[1])).disputes[0]
    assert (won.status, [each.amount_cents for each in won.movements]) == ("won", [-2500, 2500])
    assert (await payment(provider, intents[0])).disputes[0].status == "prevented"


async def test_objects_are_listed_page_by_page(stripe, provider):
    """Trap 21: what events of more than 30 days ago would have told is found by when it was made."""
    customer = await customer_of(provider)
    for number in range(130):
        stripe.payments.new_intent(500 + number, customer, {})
    since = datetime.fromtimestamp(stripe.state.now, UTC)
    stripe.state.now += 60
    newest = stripe.payments.new_intent(1, customer, {})
    found = [ref async for ref in provider.list_since("payment", since)]
    assert len(found) == len(set(found)) == 131
    assert [ref.id async for ref in provider.list_since("payment", since + timedelta(seconds=1))] == [newest["id"]]
    kinds = ("checkout", "refund", "dispute", "invoice", "subscription")
    assert [[ref async for ref in provider.list_since(kind, since)] for kind in kinds] == [[]] * 5
    assert [ref.id async for ref in provider.list_since("customer", since)] == [customer]


async def test_objects_that_cannot_be_read_are_told_as_that(stripe, provider):
    """Trap 6: fields that go away, or hold something else, are a fault of the other side's that may pass."""
    customer = await customer_of(provider)
    page = await provider.checkout(credit(customer), URLS, "01JORDER:checkout")
    session = stripe.pages.pay(page.id)
    intent = stripe.state.get("payment_intent", session["payment_intent"])
    for kind, found, name, strange in (
        ("payment", intent, "currency", None),
        ("payment", intent, "created", "yesterday"),
        ("payment", intent, "amount", -1),
        ("payment", intent, "metadata", ["none"]),
        ("checkout", session, "expires_at", None),
        ("customer", stripe.state.get("customer", customer), "livemode", None),
    ):
        kept = found.pop(name)
        if strange is not None:
            found[name] = strange
        with pytest.raises(PaymentProviderUnavailable, match=f"lacks '{name}'" if strange is None else "can't be read"):
            await provider.fetch(ObjectRef(kind, found["id"]))
        found[name] = kept
    assert (await payment(provider, intent["id"])).status == "paid"


async def test_secrets_are_never_shown(stripe):
    access = StripeAccess("sk_test_wrong_and_secret", stripe.url, retries=0)
    provider = StripePayments(access, ["whsec_hidden"], DEPLOYMENT, lambda: datetime.now(UTC))
    assert "secret" not in repr(access)
    assert "whsec" not in repr(provider)
    with pytest.raises(PaymentRefused, match="STRIPE_API_KEY") as refused:
        await customer_of(provider)
    assert "sk_" not in str(refused.value).replace("STRIPE_API_KEY", "")
    await provider.close()
    assert StripeAccess("rk_live_x").livemode
    for wrong in (
        {"api_key": "pk_test_x"},
        {"api_key": "sk_test_x", "timeout_s": 0},
        {"api_key": "sk_test_x", "retries": -1},
    ):
        with pytest.raises(ValueError, match="must"):
            StripeAccess(**wrong)
