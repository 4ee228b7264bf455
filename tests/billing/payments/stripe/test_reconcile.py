"""The daily comparison with Stripe, when its events were lost."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.money import NANO_PER_CENT
from billing.payments.reconcile import AGAIN, EVERY, PaymentComparisons, credit_difference
from tests.billing.payments.stripe.conftest import DEPLOYMENT
from tests.billing.payments.stripe.test_flows import bought
from tests.billing.payments.support import payments_of
from tests.support.stripe_fake import VISA, FakeStripe


def clock_of(stripe: FakeStripe) -> datetime:
    return datetime.fromtimestamp(stripe.state.now, UTC)


async def test_what_no_event_has_told_is_found_once_a_day(stripe, provider, billing):
    """Trap 21: every event is lost, and the money arrives all the same; what nobody can apply is listed."""
    payments = payments_of(billing, provider, DEPLOYMENT)
    refresh = payments.applier.refresh
    comparisons = PaymentComparisons(billing.database, provider, refresh, DEPLOYMENT, lambda: clock_of(stripe))
    account = await billing.accounts.create("Acme")
    order = await bought(payments, provider, account.id, "a")
    neighbour = stripe.payments.create_customer({"name": "Neighbour"})["id"]
    for marks in ({}, {"metergate_order": "ord_theirs", "metergate_deployment": "elsewhere"}):
        intent = stripe.payments.new_intent(100, neighbour, marks)
        stripe.payments.attempt(intent, stripe.payments.save_card(neighbour, VISA), present=True)
    paid = stripe.pages.pay(stripe.state.all("checkout.session")[0]["id"])["payment_intent"]
    dispute = stripe.payments.dispute(paid)
    assert await comparisons.round()
    assert not await comparisons.round()
    assert await payments.balance(account.id) == 0
    assert (await payments.orders.get(order.order_id)).status == "disputed"
    assert await comparisons.listed() == []

    stripe.state.now += 100 * 86_400  # far behind what the comparison looks back to
    stripe.payments.close_dispute(dispute["id"], "won")
    assert await comparisons.round()
    assert await payments.balance(account.id) == 2500 * NANO_PER_CENT
    found = await comparisons.last()
    assert (found.compared, found.differences, found.error) == (1, 0, None)

    async def broken(ref):
        """Apply nothing, as a release with an error in it may do."""

    refund = await provider.refund(paid, 500, "refund")
    unable = PaymentComparisons(billing.database, provider, broken, DEPLOYMENT, lambda: clock_of(stripe))
    await unable.ask(clock_of(stripe) - timedelta(days=1))
    assert await unable.round()
    (listed,) = await unable.listed()
    assert (listed.kind, listed.id, listed.account_id, unable.differences) == ("payment", paid, account.id, 1)
    assert "another refunds" in listed.difference
    await comparisons.ask(clock_of(stripe) - timedelta(days=1))
    assert await comparisons.round()
    assert await comparisons.listed() == []
    assert f"stripe:re:{refund.id}" in await payments.transfers(account.id)

    stripe.state.now += int(EVERY.total_seconds())
    stripe.faults.append("fail")
    assert await comparisons.round()
    found = await comparisons.last()
    assert found.error.startswith("Stripe failed")
    assert not await comparisons.round()
    stripe.state.now += int(AGAIN.total_seconds())
    assert await comparisons.round()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, None),
        ({"credited_nano": None}, "it was paid and not credited"),
        ({"credited_nano": None, "parked": True}, None),
        ({"credited_nano": None, "kind": "plan"}, None),
        ({"credited_nano": 1}, "1 nano-USD were credited of an order of 25000000000"),
    ],
)
def test_credit_is_compared_with_the_order(changed, why):
    row = {"kind": "credit", "amount_cents": 2500, "parked": False, "credited_nano": 2500 * NANO_PER_CENT}
    assert credit_difference(row | changed) == why
