"""Whole flows on the fake: however its events come, in whatever order and as often, the end is the same."""

import asyncio
import random

import pytest

from billing.money import NANO_PER_CENT
from billing.payments.events import EventRules, PaymentEvents
from billing.payments.port import NewCustomer, ObjectRef, PaymentEventRefused, Purchase, ReturnUrls
from billing.payments.stripe.provider import StripePayments
from tests.billing.payments.stripe.conftest import DEPLOYMENT
from tests.billing.payments.support import Payments, payments_of
from tests.billing.support import Billing
from tests.support.stripe_fake import VISA, FakeStripe, signed, thin
from tests.support.stripe_fake.state import Object

URLS = ReturnUrls("https://app.test/paid", "https://app.test/back")


@pytest.fixture
def payments(billing: Billing, provider: StripePayments) -> Payments:
    return payments_of(billing, provider, DEPLOYMENT)


def events_of(payments: Payments, provider: StripePayments, rules: EventRules | None = None) -> PaymentEvents:
    """What one gateway takes in, and looks into."""
    billing = payments.billing
    return PaymentEvents(billing.database, provider, payments.applier.refresh, billing.new_id, rules)


async def deliver(events: PaymentEvents, stripe: FakeStripe, event: Object) -> bool:
    body, headers = signed(event, stripe.secret, at=stripe.state.now)
    return await events.receive(body, headers)


async def bought(payments: Payments, provider: StripePayments, account_id: str, key: str) -> Purchase:
    """Create an order whose page is open."""
    customer = await provider.ensure_customer(NewCustomer(account_id, "Acme"), f"customer:{account_id}")
    order = await payments.order(account_id, 2500, key)
    purchase = Purchase(order.id, account_id, customer, "credit", order.amount_cents, "Credit")
    page = await provider.checkout(purchase, URLS, f"{order.id}:checkout")
    await payments.orders.opened(order.id, customer, page)
    return purchase


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_and_repetition_of_events_ends_the_same(stripe, provider, payments, seed):
    """Traps 1, 2, 15, 16: between any two steps two gateways get some of the events that there have been, early or
    late, twice or not at all, whole or thin."""
    chosen = random.Random(seed)  # noqa: S311 - the order of a test's events
    gateways = [events_of(payments, provider) for _ in range(2)]

    async def some():
        for _ in range(chosen.randrange(4)):
            event = chosen.choice(stripe.state.events)
            gateway = chosen.choice(gateways)
            await deliver(gateway, stripe, thin(event) if chosen.randrange(2) else event)
        if chosen.randrange(2):
            await asyncio.gather(*(each.round() for each in gateways))

    account = await payments.billing.accounts.create("Acme")
    kept, disputed = [await bought(payments, provider, account.id, key) for key in ("a", "b")]
    sessions = {each["client_reference_id"]: each["id"] for each in stripe.state.all("checkout.session")}
    stripe.pages.pay(sessions[kept.order_id], later=True)
    await some()
    stripe.pages.settle(sessions[kept.order_id], ok=True)
    await some()
    intent = stripe.pages.pay(sessions[disputed.order_id])["payment_intent"]
    await some()
    dispute = stripe.payments.dispute(intent)
    await some()
    paid = stripe.state.get("checkout.session", sessions[kept.order_id])["payment_intent"]
    for number, status in enumerate((None, "failed", "canceled")):
        refund = await provider.refund(paid, 500, f"refund:{number}")
        await some()
        if status is not None:
            stripe.payments.end_refund(refund.id, status)
            await some()
    stripe.payments.close_dispute(dispute["id"], "won")
    needed = ("payment_intent.succeeded", "refund.created", "charge.dispute.closed")
    last = list(stripe.state.events)
    chosen.shuffle(last)
    for event in last:
        if chosen.randrange(3) or event["type"] in needed:
            await deliver(chosen.choice(gateways), stripe, event)
    await asyncio.gather(*(each.round() for each in gateways))

    assert await payments.balance(account.id) == (2 * 2500 - 500) * NANO_PER_CENT
    assert (await payments.billing.accounts.get(account.id)).status == "active"
    assert (await payments.orders.get(kept.order_id)).refunded_cents == 500
    assert {(await payments.orders.get(each.order_id)).status for each in (kept, disputed)} == {"credited"}
    moved = await payments.transfers(account.id)
    assert sum(moved.values()) == (2 * 2500 - 500) * NANO_PER_CENT
    assert moved[f"stripe:pi:{paid}"] == 2500 * NANO_PER_CENT
    await gateways[0].standing.refresh()
    assert (gateways[0].standing.waiting, gateways[0].standing.parked) == (0, 0)


async def test_what_is_not_ours_is_acknowledged_and_left(stripe, provider, payments):
    """Trap 18: another mode's events, other installations' objects, types that we don't know: stored, and no more."""
    events = events_of(payments, provider)
    account = await payments.billing.accounts.create("Acme")
    customer = stripe.payments.create_customer({"name": "Neighbour"})
    foreign = {"metergate_order": "ord_theirs", "metergate_deployment": "elsewhere"}
    for marks in (foreign, {}):
        intent = stripe.payments.new_intent(2500, customer["id"], marks)
        stripe.payments.attempt(intent, stripe.payments.save_card(customer["id"], VISA), present=True)
    theirs = stripe.state.events[-1]
    live = theirs | {"id": "evt_live", "livemode": True}
    unknown = stripe.state.emit("payout.paid", stripe.state.add("payout", "po"))
    gone = stripe.state.emit("refund.created", {"id": "re_gone", "object": "refund"})
    for event in (*stripe.state.events, live):
        assert await deliver(events, stripe, event)
        assert not await deliver(events, stripe, event)
    await events.round()
    page = await events.page(100)
    states = {each.id: each.state for each in page.items}
    assert (states["evt_live"], states[unknown["id"]], states[gone["id"]]) == ("ignored", "ignored", "done")
    assert set(states.values()) == {"ignored", "done"}
    assert await payments.transfers(account.id) == {}
    assert await payments.billing.database.value("SELECT count(*) FROM payments_parked") == 0
    with pytest.raises(PaymentEventRefused):
        await events.receive(b"{}", {"stripe-signature": "t=1,v1=00"})
    assert (await events.page(2)).next_after is not None


async def test_event_that_fails_is_tried_again_given_up_and_replayed(stripe, provider, payments, caplog):
    """Trap 3: what could not be applied has changed nothing, and is not taken for done."""
    events = events_of(payments, provider, EventRules(attempts=2, first_pause_s=0.001, most_pause_s=0.001, at_once=1))
    account = await payments.billing.accounts.create("Acme")
    purchase = await bought(payments, provider, account.id, "a")
    intent = stripe.pages.pay(stripe.state.all("checkout.session")[0]["id"])["payment_intent"]
    event = stripe.state.events[-1]
    assert event["type"] == "checkout.session.completed"
    await deliver(events, stripe, event)
    stripe.faults.extend(["busy", "fail"])
    while (await events.page(10)).items[0].state == "waiting":
        await events.round()
    parked = (await events.page(10, state="parked")).items[0]
    assert (parked.attempts, parked.ref_id) == (2, event["data"]["object"]["id"])
    assert parked.error is not None
    assert "Stripe failed" in parked.error
    assert "parked" in caplog.text
    await events.standing.refresh()
    assert (events.standing.waiting, events.standing.parked) == (0, 1)
    assert (await payments.orders.get(purchase.order_id)).status == "open"

    assert (await events.replay(parked.id)).state == "waiting"
    await events.round()
    assert await payments.transfers(account.id) == {f"stripe:pi:{intent}": 2500 * NANO_PER_CENT}
    await payments.applier.refresh(ObjectRef("payment", intent))
    assert (await events.page(10)).items[0].state == "done"
