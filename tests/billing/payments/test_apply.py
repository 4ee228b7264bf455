"""A provider's objects applied to orders, balances and accounts, on a real Postgres."""

import asyncio
from dataclasses import replace

import pytest

from billing.money import MAX_NANO, NANO_PER_CENT
from billing.payments.orders import NewOrder, OrderConflict
from billing.payments.port import Checkout, Dispute, Movement, ObjectRef, Refund
from tests.billing.payments.support import NOW, Payments, Shelf, payment_of, payments_of
from tests.billing.support import Billing

ORDER_NANO = 2000 * NANO_PER_CENT


@pytest.fixture
def payments(billing: Billing) -> Payments:
    return payments_of(billing, Shelf())


async def test_a_paid_order_is_credited_once_however_many_say_so(payments):
    account = await payments.billing.accounts.create("Acme")
    order = await payments.order(account.id)
    assert await payments.order(account.id) == order
    with pytest.raises(OrderConflict):
        await payments.order(account.id, 2100)

    payment = payment_of(order, "processing")
    checkout = Checkout(
        "cs_1", "complete", order.id, "here", None, payment.id, None, livemode=False, created_at=NOW, expires_at=NOW
    )
    await payments.see(payment)  # a complete page is not a payment
    await payments.see(checkout)
    assert (await payments.orders.get(order.id)).status == "open"
    payments.shelf.put(replace(payment, status="paid", total_cents=2400))
    refs = (ObjectRef("payment", payment.id), ObjectRef("checkout", checkout.id))
    await asyncio.gather(*(payments.applier.refresh(refs[number % 2]) for number in range(8)))
    assert await payments.transfers(account.id) == {"stripe:pi:pi_1": ORDER_NANO}
    assert await payments.balance(account.id) == ORDER_NANO
    credited = await payments.orders.get(order.id)
    assert (credited.status, credited.payment_id) == ("credited", "pi_1")
    assert await payments.notices() == [(account.id, "payment.succeeded")]
    assert payments.billing.change_notifier.told.count(("balance", account.id)) == 1


async def test_an_answer_that_was_asked_for_earlier_never_follows_a_later_one(payments):
    account = await payments.billing.accounts.create("Acme")
    order = await payments.order(account.id)
    paid = payment_of(order)
    refund = Refund("re_1", paid.id, "succeeded", 500, "usd", NOW)
    answered, go_on = asyncio.Event(), asyncio.Event()

    async def wait():
        payments.shelf.waits = None
        answered.set()
        await go_on.wait()

    payments.shelf.put(replace(paid, refunds=(refund,)))
    payments.shelf.waits = wait
    late = asyncio.create_task(payments.applier.refresh(ObjectRef("payment", paid.id)))
    await answered.wait()
    await payments.see(replace(paid, refunds=(replace(refund, status="failed"),)))
    go_on.set()
    await late
    assert await payments.balance(account.id) == ORDER_NANO


async def test_refunds_and_disputes_move_their_own_money_and_suspend_the_account(payments):
    billing = payments.billing
    account = await billing.accounts.create("Acme")
    order = await payments.order(account.id)
    refund = Refund("re_1", "pi_1", "pending", 500, "usd", NOW)
    paid = replace(payment_of(order), refunds=(refund,))
    payments.shelf.put(refund, paid)
    await payments.applier.refresh(ObjectRef("refund", refund.id))  # before anybody has said that it was paid
    assert await payments.transfers(account.id) == {"stripe:pi:pi_1": ORDER_NANO, "stripe:re:re_1": -ORDER_NANO // 4}
    await payments.see(replace(paid, refunds=(replace(refund, status="failed"),)))
    assert await payments.balance(account.id) == ORDER_NANO

    await billing.grants.adjust(account.id, -1500 * NANO_PER_CENT, "used", "used up")
    withdrawn = Movement("txn_1", -2000, NOW)
    dispute = Dispute("dp_1", "pi_1", "open", 2000, "usd", NOW, (withdrawn,))
    disputed = replace(payment_of(order), disputes=(dispute,))
    await payments.see(disputed)
    await payments.see(disputed)
    assert await payments.balance(account.id) == -1500 * NANO_PER_CENT  # debt
    assert (await billing.accounts.get(account.id)).status == "suspended"
    assert (await payments.orders.get(order.id)).status == "disputed"
    won = replace(dispute, status="won", movements=(withdrawn, Movement("txn_2", 2000, NOW)))
    await payments.see(replace(disputed, disputes=(won,)))
    assert await payments.balance(account.id) == 500 * NANO_PER_CENT
    assert (await billing.accounts.get(account.id)).status == "active"
    after = await payments.orders.get(order.id)
    assert (after.status, after.refunded_cents, after.disputed_cents) == ("credited", 0, 0)
    assert [kind for _, kind in await payments.notices()] == [
        "payment.succeeded",
        "payment.refunded",
        "payment.disputed",
    ]

    refunded = Refund("re_2", "pi_1", "succeeded", 2000, "usd", NOW)
    await payments.see(replace(payment_of(order), disputes=(won,), refunds=(refunded,)))
    assert await payments.balance(account.id) == 0  # at most what is left
    assert (await payments.orders.get(order.id)).status == "refunded"


async def test_what_cannot_be_credited_is_parked_and_what_is_not_ours_ignored(payments):
    account = await payments.billing.accounts.create("Acme")
    order = await payments.order(account.id)
    await payments.see(payment_of(order, id="pi_other", deployment="elsewhere"))
    await payments.see(payment_of(order, id="pi_live", livemode=True))
    await payments.see(payment_of(order, id="pi_link", deployment=None))
    await payments.orders.refresh_stats()
    assert payments.orders.waiting == 0

    await payments.see(payment_of(order, id="pi_less", amount_cents=1500))
    assert (await payments.orders.get(order.id)).status == "parked"
    await payments.see(payment_of(order, id="pi_nobody", order_id="ord_none"))
    await payments.see(payment_of(order, id="pi_nobody", order_id="ord_none"))
    most = (await payments.orders.create(NewOrder(account.id, "credit", 9_000, "most"))).id
    await payments.billing.grants.grant(account.id, MAX_NANO - 1, "rich")
    await payments.see(payment_of(await payments.orders.get(most), id="pi_most"))
    parked = (await payments.orders.dead_letters(10)).items
    assert [(each.object_id, each.order_id) for each in parked] == [
        ("pi_most", most),
        ("pi_nobody", None),
        ("pi_less", order.id),
    ]
    assert "would leave its bound" in parked[0].reason
    assert await payments.transfers(account.id) == {}
    assert await payments.balance(account.id) == MAX_NANO - 1


async def test_a_failed_order_can_still_be_paid_and_an_expired_one_too(payments):
    account = await payments.billing.accounts.create("Acme")
    order = await payments.order(account.id)
    await payments.see(payment_of(order, "failed", decline_code="insufficient_funds"))
    failed = await payments.orders.get(order.id)
    assert (failed.status, failed.reason) == ("failed", "insufficient_funds")
    await payments.see(
        Checkout("cs_1", "expired", order.id, "here", None, None, None, livemode=False, created_at=NOW, expires_at=NOW)
    )
    assert (await payments.orders.get(order.id)).status == "expired"
    await payments.see(payment_of(order, id="pi_2"))
    again = await payments.orders.get(order.id)
    assert (again.status, again.payment_id, again.reason) == ("credited", "pi_2", None)
    await payments.see(payment_of(order, "failed", id="pi_1"))
    await payments.see(payment_of(order, id="pi_3"))
    assert (await payments.orders.get(order.id)).status == "credited"
    (twice,) = (await payments.orders.dead_letters(10)).items
    assert (twice.object_id, twice.reason) == ("pi_3", "the order was paid before, by another payment")
