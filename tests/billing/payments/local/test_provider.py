"""The local provider on Postgres: calls once per key, pages that decide, events delivered until they are taken."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from billing.errors import StoreError
from billing.payments.local.provider import LocalProvider, LocalStore
from billing.payments.local.web import Acts, CheckoutView, view_page
from billing.payments.port import (
    CustomerGone,
    Event,
    HostedPage,
    Invoice,
    NewCustomer,
    ObjectRef,
    Payment,
    PaymentEventRefused,
    PaymentRefused,
    Purchase,
    ReturnUrls,
    Subscription,
)
from tests.billing.support import Billing

START = datetime(2027, 1, 31, 12, tzinfo=UTC)
URLS = ReturnUrls("https://shop.example/ok?a=1&b=2", "https://shop.example/no")


class Local:
    """The provider with a clock that a test moves, and the events that it has delivered."""

    def __init__(self, billing: Billing) -> None:
        self.now = START
        self.taken: list[Event] = []
        self.takes = True
        store = LocalStore(billing.database, lambda: self.now, billing.new_id)
        prices = {"starter": 9900, "professional": 29900}
        self.provider = LocalProvider(store, "https://gateway.example", "here", lambda: prices, self.take)
        self.acts = Acts(self.provider)

    async def take(self, event: Event) -> None:
        if not self.takes:
            raise StoreError("Postgres is away")
        self.taken.append(event)

    async def checkout(self, purchase: Purchase, key: str = "k") -> tuple[HostedPage, str]:
        page = await self.provider.checkout(purchase, URLS, key)
        return page, page.url.rpartition("/")[2]

    async def payment(self, secret: str) -> Payment:
        view = await self.acts.view(secret)
        assert isinstance(view, CheckoutView)
        assert view.payment is not None
        return view.payment


@pytest.fixture
def local(billing: Billing) -> Local:
    return Local(billing)


async def customer_of(local: Local) -> str:
    first = await local.provider.ensure_customer(NewCustomer("acc_1", "Acme"), "customer:acc_1:1")
    assert await local.provider.ensure_customer(NewCustomer("acc_1", "Acme"), "customer:acc_1:1") == first
    return first


async def test_a_checkout_is_paid_by_a_button_and_then_refunded_or_disputed(local):
    purchase = Purchase("ord_1", "acc_1", await customer_of(local), "credit", 2000, "<Credit>", save_method=True)
    page, secret = await local.checkout(purchase)
    assert (await local.checkout(purchase))[0] == page
    with pytest.raises(PaymentRefused):
        await local.provider.checkout(replace(purchase, amount_cents=1), URLS, "k")
    with pytest.raises(CustomerGone):
        await local.provider.checkout(replace(purchase, customer_id="cus_none"), URLS, "other")
    view = await local.acts.view(secret)
    assert view is not None
    shown = view_page(view, "")
    assert "&lt;Credit&gt;" in shown
    assert "20.00 USD" in shown
    assert "Your bank asks" in view_page(view, "confirm")
    assert await local.acts.view(page.id) is None  # an object's id opens nothing

    await local.acts.act(secret, "decline")
    assert (await local.payment(secret)).decline_code == "insufficient_funds"
    await local.acts.act(secret, "confirm")
    await local.acts.act(secret, "decline")  # it is paid: nothing is declined any more
    paid = await local.payment(secret)
    assert (paid.status, paid.amount_cents, paid.order_id, paid.deployment) == ("paid", 2000, "ord_1", "here")
    assert await local.provider.find_payment("ord_1") == paid
    assert [event.type for event in local.taken] == [
        "payment.failed",
        "payment.paid",
        "customer.updated",
        "checkout.completed",
    ]

    await local.acts.act(secret, "refund_half")
    await local.acts.act(secret, "fail_refund")
    await local.acts.act(secret, "dispute")
    with pytest.raises(PaymentRefused):
        await local.provider.refund(paid.id, 1, "refund")
    await local.acts.act(secret, "win")
    await local.acts.act(secret, "refund")
    after = await local.payment(secret)
    assert [(each.amount_cents, each.status) for each in after.refunds] == [(1000, "failed"), (2000, "succeeded")]
    assert [(each.amount_cents) for each in after.disputes[0].movements] == [-2000, 2000]
    with pytest.raises(PaymentRefused):
        await local.provider.refund(paid.id, 1, "again")


async def test_a_card_that_was_removed_pays_nothing(local):
    customer_id = await customer_of(local)
    secret = (await local.provider.setup(customer_id, URLS, "setup")).url.rpartition("/")[2]
    for action in ("save:visa 4242", "remove"):
        await local.acts.act(secret, action)
    recharge = Purchase("ord_1", "acc_1", customer_id, "recharge", 500, "Recharge")
    charged = await local.provider.charge(recharge, "charge")
    assert (charged.status, charged.hard) == ("failed", True)


async def test_a_subscription_is_renewed_until_it_ends(local):
    customer_id = await customer_of(local)
    plan = Purchase("ord_1", "acc_1", customer_id, "plan", 9900, "Starter", price_id="starter")
    _, secret = await local.checkout(plan)
    await local.acts.act(secret, "approve")
    created = next(event.ref for event in local.taken if event.type == "subscription.created")
    assert created is not None

    async def now_is(at):
        local.now = at
        await local.provider.run_once()
        found = await local.provider.fetch(created)
        assert isinstance(found, Subscription)
        return found

    async def invoice_of(found):
        invoice = await local.provider.fetch(ObjectRef("invoice", found.latest_invoice_id or ""))
        assert isinstance(invoice, Invoice)
        return invoice

    first = await now_is(START + timedelta(days=27))
    assert (first.status, first.period_end) == ("active", datetime(2027, 2, 28, 12, tzinfo=UTC))
    second = await now_is(first.period_end)
    assert (second.period_start, second.period_end) == (first.period_end, datetime(2027, 3, 31, 12, tzinfo=UTC))
    assert [line.amount_cents for line in (await invoice_of(second)).lines] == [9900]

    local.now = second.period_start + (second.period_end - second.period_start) / 2
    portal = (await local.provider.portal(customer_id, URLS.success_url, "portal")).url.rpartition("/")[2]
    await local.acts.act(portal, f"upgrade:{second.id}:professional")
    upgraded = await now_is(local.now)
    assert [line.amount_cents for line in (await invoice_of(upgraded)).lines] == [-4950, 14950]

    portal = (await local.provider.portal(customer_id, URLS.success_url, "portal 2")).url.rpartition("/")[2]
    await local.acts.act(portal, "save:visa 9995")
    overdue = await now_is(upgraded.period_end)
    assert (overdue.status, overdue.price_id) == ("past_due", "professional")
    portal = (await local.provider.portal(customer_id, URLS.success_url, "portal 3")).url.rpartition("/")[2]
    await local.acts.act(portal, "save:visa 4242")
    await local.acts.act(portal, f"pay:{overdue.id}")
    await local.acts.act(portal, f"cancel:{overdue.id}")
    cancelled = await now_is(local.now)
    assert (cancelled.status, cancelled.ends_at) == ("active", cancelled.period_end)
    assert not cancelled.cancel_at_period_end
    assert (await now_is(cancelled.period_end)).status == "canceled"


async def test_an_event_that_is_not_taken_is_delivered_again(local):
    purchase = Purchase("ord_1", "acc_1", await customer_of(local), "credit", 2000, "Credit")
    _, secret = await local.checkout(purchase)
    local.takes = False
    await local.acts.act(secret, "approve")
    assert (await local.payment(secret)).status == "paid"
    local.takes = True
    await local.provider.run_once()
    await local.provider.run_once()
    assert sorted(event.type for event in local.taken) == ["checkout.completed", "payment.paid"]
    with pytest.raises(PaymentEventRefused):
        await local.provider.read_event(b"{}", {})
    found = [ref async for ref in local.provider.list_since("payment", START - timedelta(days=1))]
    assert len(found) == 1
