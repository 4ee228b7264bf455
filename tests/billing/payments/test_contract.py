"""What every payment provider does: the local one, Stripe's adapter on the fake, and on Stripe itself where
METERGATE_STRIPE_TEST_KEY is a key of its test mode. Nobody pays at the real one's pages here: what needs that is left
out there."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from ulid import ULID

from billing.payments.local.provider import LocalProvider, LocalStore
from billing.payments.local.web import Acts
from billing.payments.port import (
    Checkout,
    Customer,
    CustomerGone,
    Dispute,
    HostedPage,
    Invoice,
    NewCustomer,
    ObjectRef,
    Payment,
    PaymentProvider,
    PaymentRefused,
    Purchase,
    Refund,
    ReturnUrls,
    Subscription,
)
from billing.payments.stripe.provider import StripeAccess, StripePayments
from tests.billing.support import Billing
from tests.support.stripe_fake import POOR, SECURE, STOLEN, VISA, FakeStripe

TEST_KEY = os.environ.get("METERGATE_STRIPE_TEST_KEY", "")
URLS = ReturnUrls("https://app.example.com/paid", "https://app.example.com/back")
PRICES = {"price_starter": 9900, "price_pro": 29900}
DEPLOYMENT = "contract-tests"
Card = Literal["good", "poor", "stolen", "asks"]
REAL_METHODS = {"good": "pm_card_visa", "poor": "pm_card_chargeCustomerFail", "asks": "pm_card_authenticationRequired"}


@dataclass
class Bench:
    """A provider, and what payers, banks and operators do there; None: nobody can from here."""

    provider: PaymentProvider
    save: Callable[[str, Card], Awaitable[object]]
    pay: Callable[[HostedPage, Card], Awaitable[object]] | None = None
    dispute: Callable[[HostedPage, Payment, bool], Awaitable[object]] | None = None

    def purchase(self, customer_id: str, kind: Any = "credit", price_id: str | None = None) -> Purchase:
        """A new order of 20 dollars, or of the price."""
        cents = 2000 if price_id is None else PRICES[price_id]
        return Purchase(f"ord_{ULID()}", "acc_1", customer_id, kind, cents, "Credit", price_id, save_method=True)

    async def customer(self) -> str:
        return await self.provider.ensure_customer(NewCustomer("acc_1", "Acme"), f"customer:{ULID()}")

    async def payment(self, payment_id: str | None) -> Payment:
        found = await self.provider.fetch(ObjectRef("payment", payment_id or "none"))
        assert isinstance(found, Payment)
        return found


async def local_bench(billing: Billing, stack: AsyncExitStack) -> Bench:
    store = LocalStore(billing.database, lambda: datetime.now(UTC), billing.new_id)
    provider = LocalProvider(store, "http://localhost", DEPLOYMENT, lambda: PRICES)
    acts = Acts(provider)
    methods = {"good": "visa 4242", "poor": "visa 9995", "stolen": "visa 9979", "asks": "visa 3155"}

    def secret(page: HostedPage) -> str:
        return page.url.rpartition("/")[2]

    async def save(customer_id: str, card: Card) -> None:
        page = await provider.setup(customer_id, URLS, f"setup:{ULID()}")
        await acts.act(secret(page), f"save:{methods[card]}")

    async def pay(page: HostedPage, card: Card) -> None:
        await acts.act(secret(page), {"good": "approve", "poor": "decline", "asks": "confirm"}[card])

    async def dispute(page: HostedPage, payment: Payment, won: bool) -> None:
        await acts.act(secret(page), "win" if won else "dispute")

    return Bench(provider, save, pay, dispute)


async def fake_bench(billing: Billing, stack: AsyncExitStack) -> Bench:
    stripe = await stack.enter_async_context(FakeStripe().serving())
    provider = StripePayments(StripeAccess(stripe.api_key, stripe.url), (), DEPLOYMENT, lambda: datetime.now(UTC))
    stack.push_async_callback(provider.close)
    stack.callback(lambda: pytest.fail(str(stripe.violations)) if stripe.violations else None)
    stripe.state.now = int(datetime.now(UTC).timestamp())
    cards = {"good": VISA, "poor": POOR, "stolen": STOLEN, "asks": SECURE}
    for price_id, cents in PRICES.items():
        stripe.subscriptions.add_price(price_id, cents)

    async def save(customer_id: str, card: Card) -> None:
        stripe.payments.save_card(customer_id, cards[card], default=True)

    async def pay(page: HostedPage, card: Card) -> None:
        stripe.pages.pay(page.id, cards[card])

    async def dispute(page: HostedPage, payment: Payment, won: bool) -> None:
        if won:
            stripe.payments.close_dispute(stripe.state.all("dispute")[-1]["id"], "won")
        else:
            stripe.payments.dispute(payment.id)

    return Bench(provider, save, pay, dispute)


async def real_bench(billing: Billing, stack: AsyncExitStack) -> Bench:
    if "_test_" not in TEST_KEY:
        pytest.skip("METERGATE_STRIPE_TEST_KEY is no key of Stripe's test mode")
    provider = StripePayments(StripeAccess(TEST_KEY), (), DEPLOYMENT, lambda: datetime.now(UTC))
    stack.push_async_callback(provider.close)
    calls = provider.calls

    async def save(customer_id: str, card: Card) -> None:
        if card not in REAL_METHODS:
            pytest.skip(f"Stripe's test mode attaches no {card} card")
        attach = calls.api.payment_methods.attach_async
        method = REAL_METHODS[card]
        saved = await calls.write(attach, method, params={"customer": customer_id}, key=f"attach:{ULID()}")
        usual = {"invoice_settings": {"default_payment_method": saved["id"]}}
        await calls.write(calls.api.customers.update_async, customer_id, params=usual, key=f"default:{ULID()}")

    return Bench(provider, save)


BENCHES = {"local": local_bench, "fake": fake_bench, "stripe": real_bench}


@pytest.fixture(params=["local", "fake", *(["stripe"] if TEST_KEY else [])])
async def bench(request: pytest.FixtureRequest, billing: Billing) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield await BENCHES[request.param](billing, stack)


async def test_pages_are_opened_once_and_close(bench):
    provider = bench.provider
    customer, again = [await provider.ensure_customer(NewCustomer("acc_1", "Acme"), "once:" + DEPLOYMENT) for _ in "ab"]
    assert customer == again
    known = await provider.fetch(ObjectRef("customer", customer))
    assert isinstance(known, Customer)
    assert (known.account_id, known.deployment, known.livemode) == ("acc_1", DEPLOYMENT, False)
    purchase = bench.purchase(customer)
    pages = [await provider.checkout(purchase, URLS, f"{purchase.order_id}:checkout") for _ in "ab"]
    assert pages[0] == pages[1]
    ref = ObjectRef("checkout", pages[0].id)
    checkout = await provider.fetch(ref)
    assert isinstance(checkout, Checkout)
    assert (checkout.status, checkout.order_id, checkout.deployment) == ("open", purchase.order_id, DEPLOYMENT)
    assert checkout.expires_at == pages[0].expires_at
    for number in range(2):
        await provider.expire_checkout(checkout.id, f"{purchase.order_id}:expire:{number}")
    assert (await provider.fetch(ref)).status == "expired"
    assert (await provider.setup(customer, URLS, f"{purchase.order_id}:setup")).url
    assert await provider.find_payment("ord_" + str(ULID())) is None
    kinds = ["checkout", "payment", "refund", "dispute", "invoice", "subscription", "customer"]
    assert [await provider.fetch(ObjectRef(kind, "none_such")) for kind in kinds] == [None] * len(kinds)
    since = datetime.now(UTC) - timedelta(minutes=5)
    assert ref in [each async for each in provider.list_since("checkout", since)]
    with pytest.raises(CustomerGone):
        await provider.checkout(bench.purchase("cus_none"), URLS, f"none:{ULID()}")


@pytest.mark.parametrize(
    ("card", "status", "hard"),
    [
        ("good", "paid", False),
        ("poor", "failed", False),
        ("stolen", "failed", True),
        ("asks", "requires_action", False),
    ],
)
async def test_charges_without_the_payer(bench, card, status, hard):
    provider, customer = bench.provider, await bench.customer()
    purchase = bench.purchase(customer, "recharge")
    nothing = await provider.charge(purchase, f"{purchase.order_id}:none")
    assert (nothing.status, nothing.hard) == ("failed", True)
    await bench.save(customer, card)
    purchase = bench.purchase(customer, "recharge")
    made = await provider.charge(purchase, f"{purchase.order_id}:charge")
    assert (made.status, made.hard, made.amount_cents) == (status, hard, 2000)
    assert (made.order_id, made.customer_id, made.deployment) == (purchase.order_id, customer, DEPLOYMENT)
    assert (made.decline_code is None) == (status == "paid")
    assert await provider.charge(purchase, f"{purchase.order_id}:charge") == made
    assert (await bench.payment(made.id)).status == status
    if status == "paid":
        refunds = [await provider.refund(made.id, 500, f"{purchase.order_id}:refund") for _ in "ab"]
        assert refunds[0].id == refunds[1].id
        with pytest.raises(PaymentRefused):
            await provider.refund(made.id, 1501, f"{purchase.order_id}:more")
        (kept,) = (await bench.payment(made.id)).refunds
        assert (kept.amount_cents, kept.status) == (500, "succeeded")
        fetched = await provider.fetch(ObjectRef("refund", kept.id))
        assert isinstance(fetched, Refund)
        assert (fetched.payment_id, fetched.amount_cents) == (made.id, 500)


async def test_page_is_paid_and_disputed(bench):
    if bench.pay is None or bench.dispute is None:
        pytest.skip("nobody pays at this provider's pages from here")
    provider, customer = bench.provider, await bench.customer()
    purchase = bench.purchase(customer)
    page = await provider.checkout(purchase, URLS, f"{purchase.order_id}:checkout")
    await bench.pay(page, "poor")
    assert (await provider.fetch(ObjectRef("checkout", page.id))).status == "open"
    await bench.pay(page, "good")
    checkout = await provider.fetch(ObjectRef("checkout", page.id))
    assert isinstance(checkout, Checkout)
    assert (checkout.status, checkout.order_id, checkout.deployment) == ("complete", purchase.order_id, DEPLOYMENT)
    paid = await bench.payment(checkout.payment_id)
    assert (paid.status, paid.order_id, paid.deployment) == ("paid", purchase.order_id, DEPLOYMENT)
    assert (paid.amount_cents, paid.total_cents, paid.livemode) == (2000, 2000, False)
    assert (await provider.fetch(ObjectRef("customer", customer))).method == "visa 4242"
    await provider.expire_checkout(page.id, f"{purchase.order_id}:expire")  # paid: it stays as it is
    assert await provider.fetch(ObjectRef("checkout", page.id)) == checkout
    await bench.dispute(page, paid, False)
    (dispute,) = (await bench.payment(paid.id)).disputes
    assert (dispute.status, [each.amount_cents for each in dispute.movements]) == ("open", [-2000])
    await bench.dispute(page, paid, True)
    won = await provider.fetch(ObjectRef("dispute", dispute.id))
    assert isinstance(won, Dispute)
    assert (won.status, won.payment_id, sum(each.amount_cents for each in won.movements)) == ("won", paid.id, 0)


async def test_subscription_goes_up_down_and_ends(bench):
    if bench.pay is None:
        pytest.skip("nobody pays at this provider's pages from here")
    provider, purchase = bench.provider, bench.purchase(await bench.customer(), "plan", "price_starter")
    page = await provider.checkout(purchase, URLS, f"{purchase.order_id}:checkout")
    await bench.pay(page, "good")
    checkout = await provider.fetch(ObjectRef("checkout", page.id))
    ref = ObjectRef("subscription", checkout.subscription_id)
    begun = await provider.fetch(ref)
    assert isinstance(begun, Subscription)
    assert (begun.status, begun.price_id, begun.order_id) == ("active", "price_starter", purchase.order_id)
    assert (begun.deployment, begun.ends_at) == (DEPLOYMENT, None)
    invoice = await provider.fetch(ObjectRef("invoice", begun.latest_invoice_id or ""))
    assert isinstance(invoice, Invoice)
    assert (invoice.status, invoice.subscription_id, invoice.amount_cents) == ("paid", ref.id, 9900)
    (line,) = invoice.lines
    assert (line.kind, line.price_id, line.amount_cents) == ("subscription", "price_starter", 9900)
    assert (line.period_start, line.period_end) == (begun.period_start, begun.period_end)
    assert (await bench.payment(invoice.payment_id)).invoice_id == invoice.id

    def key(step):
        return f"{purchase.order_id}:{step}"

    up = await provider.change_plan(ref.id, "price_pro", "now", key("up"))
    assert (up.price_id, up.period_end) == ("price_pro", begun.period_end)
    raised = await provider.fetch(ObjectRef("invoice", up.latest_invoice_id or ""))
    assert isinstance(raised, Invoice)
    assert (raised.status, {each.kind for each in raised.lines}) == ("paid", {"proration"})
    down = await provider.change_plan(ref.id, "price_starter", "period_end", key("down"))
    assert (down.price_id, down.next_price_id, down.ends_at) == ("price_pro", "price_starter", None)
    assert (await provider.resume(ref.id, key("stay"))).next_price_id is None
    ending = await provider.cancel(ref.id, "period_end", key("end"))
    assert (ending.status, ending.ends_at) == ("active", begun.period_end)
    assert (await provider.resume(ref.id, key("back"))).ends_at is None
    ended = await provider.cancel(ref.id, "now", key("now"))
    assert ended.status == "canceled"
    assert ended.ended_at is not None
