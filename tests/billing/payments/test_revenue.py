"""Revenue over a month of every kind of payment: sums equal to the provider's own objects, and to their rows."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from billing.audit import ADMIN
from billing.money import NANO_PER_CENT, parse_usd
from billing.pages import BadCursor
from billing.payments.flows import Wanted
from billing.payments.port import Payment
from billing.payments.revenue import Flow
from tests.billing.payments.stripe.conftest import provider as provider
from tests.billing.payments.stripe.conftest import stripe as stripe
from tests.billing.payments.stripe.test_plans import deliver_all
from tests.billing.payments.stripe.test_plans import payments as stripe_payments
from tests.billing.payments.test_charges import buy_credit, recharged
from tests.billing.payments.test_plans_bought import Shop
from tests.support.stripe_fake.cards import POOR

payments = stripe_payments
BEGIN = datetime(2028, 3, 1, tzinfo=UTC)
END = datetime(2028, 4, 1, tzinfo=UTC)
DAYS = [BEGIN + timedelta(days=day) for day in range(31)]


async def flows_at_provider(provider, since, until):
    """What the provider's own objects say of each day: payments, failures, refunds, and movements of disputes."""
    found = defaultdict(Flow)

    def on(at):
        return found[at.replace(hour=0, minute=0, second=0, microsecond=0)] if since <= at < until else Flow()

    async for ref in provider.list_since("payment", datetime(2020, 1, 1, tzinfo=UTC)):
        payment = await provider.fetch(ref)
        assert isinstance(payment, Payment)
        flow = on(payment.created_at)
        if payment.status == "paid":
            flow.payments, flow.paid_cents = flow.payments + 1, flow.paid_cents + payment.total_cents
        if payment.status == "failed":
            flow.failed, flow.failed_cents = flow.failed + 1, flow.failed_cents + payment.total_cents
        for refund in payment.refunds:
            if refund.status not in ("failed", "canceled"):
                flow = on(refund.created_at)
                flow.refunds, flow.refunded_cents = flow.refunds + 1, flow.refunded_cents + refund.amount_cents
        for dispute in payment.disputes:
            for movement in dispute.movements:
                flow = on(movement.created_at)
                flow.disputes += movement.amount_cents <= 0
                flow.disputed_cents -= movement.amount_cents
    return found


async def month_of(billing):
    """A month in which two accounts pay in every way: credit, plans, an upgrade, a renewal, recharges, failures,
    refunds that succeed and fail, disputes that are won and lost."""
    shop = Shop(billing, (await billing.accounts.create("Acme")).id, now=BEGIN - timedelta(days=10))
    other = Shop(billing, (await billing.accounts.create("Other")).id, now=BEGIN + timedelta(days=4))
    await buy_credit(shop, "20", "before")  # is refunded in the month that follows
    await shop.buy("starter", "plan")
    await shop.standing()
    shop.now = BEGIN + timedelta(days=1, hours=3)
    first = (await shop.payments.orders.page(10, account_id=shop.account_id)).items[-1]
    await shop.payments.admin.refund(first.id, 1000, "some")
    credit = await buy_credit(shop, "40", "credit")
    await shop.act(credit, "refund_half")
    await shop.act(credit, "fail_refund")
    await shop.standing()
    shop.now = BEGIN + timedelta(days=5)
    await shop.on_portal("save:visa 4242")
    await shop.standing()
    await shop.payments.changes.change(shop.account_id, "pro")
    await shop.standing()
    await recharged(shop, shop.standing)
    declined = await other.payments.flows.checkout(Wanted(other.account_id, "declined", parse_usd("15")))
    await other.act(declined.url, "decline")
    await other.standing()
    for name, day, ends in (("won", 7, "win"), ("lost", 8, "lose")):
        other.now = BEGIN + timedelta(days=day, hours=20)
        disputed = await buy_credit(other, "30", name)
        await other.standing()
        other.now += timedelta(hours=8)
        await other.act(disputed, "dispute")
        await other.standing()
        other.now += timedelta(hours=8)
        await other.act(disputed, ends)
        await other.standing()
    await billing.accounts.update(other.account_id, status="active", reason="looked into", actor=ADMIN)
    other.now = BEGIN + timedelta(days=18)
    await other.buy("starter", "first")
    await other.standing()
    shop.now = BEGIN + timedelta(days=21)  # the plan is renewed
    await shop.standing()
    await shop.on_portal("save:visa 9995")
    await recharged(shop, shop.standing, "again")  # and what is charged by itself is declined
    shop.now = END + timedelta(days=1)
    await shop.standing()
    return shop, other


async def test_a_month_of_every_kind_of_payment_comes_to_what_the_provider_has(billing):
    shop, other = await month_of(billing)
    revenue = shop.payments.revenue
    theirs = await flows_at_provider(shop.payments.provider, BEGIN, END)
    steps = await revenue.steps(DAYS, END, "day")
    assert {each.start: each.flow for each in steps if each.flow != Flow()} == theirs
    (month,) = await revenue.steps([BEGIN], END, "month")
    total = Flow()
    for each in theirs.values():
        total.add(each)
    assert month.flow == total
    # Each kind was there, so that the sums mean something.
    assert total.payments > 5
    assert total.failed
    assert total.refunds == 1
    assert total.refunded_cents == 1000
    assert total.disputes == 2
    assert total.disputed_cents == 3000  # the one that was lost

    # Each number is the sum of its rows.
    charges = shop.payments.charges
    for status, number, cents in (("paid", "payments", "paid_cents"), ("failed", "failed", "failed_cents")):
        rows = (await charges.page(100, since=BEGIN, until=END, status=status)).items
        assert (len(rows), sum(each.total_cents for each in rows)) == (getattr(total, number), getattr(total, cents))
        assert all(each.status == status for each in rows)
        assert all((each.reason is not None) == (status == "failed") for each in rows)
    for kind, cents in (("refund", total.refunded_cents), ("dispute", total.disputed_cents)):
        rows, after = [], None
        while not rows or after is not None:
            page = await revenue.returns(1, after, kind=kind, since=BEGIN, until=END)
            rows += page.items
            after = page.next_after
        assert sum(each.cents for each in rows) == cents
    # A page goes on behind one that has failed meanwhile, and is no refund any more.
    first, *_ = (await revenue.returns(9)).items
    after = (await revenue.returns(1)).next_after
    rest = (await revenue.returns(9, after)).items
    await billing.database.execute(
        "UPDATE payment_objects SET state = jsonb_set(jsonb_set(state, '{refunds}', '[]'), '{disputes}', '[]') "
        "WHERE id = $1",
        first.payment_id,
    )
    expected = [each for each in rest if each.payment_id != first.payment_id]
    assert list((await revenue.returns(9, after)).items) == expected != []
    for wrong in ("x", "1", "1.", "re_1"):
        with pytest.raises(BadCursor):
            await revenue.returns(1, wrong)
    assert {each.account_id for each in (await revenue.returns(9, account_id=other.account_id)).items} == {
        other.account_id
    }


async def test_what_subscriptions_bring_a_month_follows_them(billing):
    shop, other = await month_of(billing)
    revenue, plans = shop.payments.revenue, shop.payments.flows.plans
    nano = {plan: plans[plan].price_nano for plan in ("starter", "pro")}
    by_day = {each.start.day: each for each in await revenue.steps(DAYS, END, "day")}
    assert [(by_day[day].mrr_nano, by_day[day].subscribers) for day in (1, 5, 6, 18, 19, 31)] == [
        (nano["starter"], 1),
        (nano["starter"], 1),
        (nano["pro"], 1),
        (nano["pro"], 1),
        (nano["pro"] + nano["starter"], 2),
        (nano["pro"] + nano["starter"], 2),
    ]
    found = {each.plan: (each.subscribers, each.mrr_nano) for each in await revenue.plans()}
    assert found == {"pro": (1, nano["pro"]), "starter": (1, nano["starter"])}
    rows = (await revenue.subscriptions(10)).items
    assert {(each.account_id, each.plan, each.mrr_nano) for each in rows} == {
        (shop.account_id, "pro", nano["pro"]),
        (other.account_id, "starter", nano["starter"]),
    }
    assert [each.plan for each in (await revenue.subscriptions(10, plan="starter")).items] == ["starter"]
    first = await revenue.subscriptions(1)
    assert (await revenue.subscriptions(1, first.next_after)).items == (rows[1],)

    # One that ends brings nothing from its end on, and what it brought before stays.
    ending = await other.payments.changes.change(other.account_id, "free")
    other.now = shop.now = ending.ends_at + timedelta(minutes=1)
    await other.standing()
    assert [each.plan for each in await revenue.plans()] == ["pro"]
    month, later = await revenue.steps([BEGIN, END], datetime(2028, 5, 1, tzinfo=UTC), "month")
    assert (month.subscribers, later.subscribers) == (2, 1)
    assert later.mrr_nano == nano["pro"]


async def test_stripes_month_is_the_same(stripe, account, payments):
    credit = await payments.flows.checkout(Wanted(account.id, "credit", parse_usd("20")))
    stripe.pages.pay(credit.checkout_id or "")
    plan = await payments.flows.checkout(Wanted(account.id, "plan", plan="starter"))
    stripe.pages.pay(plan.checkout_id or "")
    await deliver_all(payments, stripe, 0)
    stripe.subscriptions.renew(stripe.state.all("subscription")[0]["id"])
    await deliver_all(payments, stripe, 1)
    order = (await payments.orders.page(10, account_id=account.id)).items[-1]
    await payments.admin.refund(order.id, 500, "some")
    theirs = await flows_at_provider(
        payments.provider, datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    )
    total = Flow()
    for each in theirs.values():
        total.add(each)
    days = [min(theirs) + timedelta(days=day) for day in range((max(theirs) - min(theirs)).days + 1)]
    steps = await payments.revenue.steps(days, days[-1] + timedelta(days=1), "day")
    assert {each.start: each.flow for each in steps if each.flow != Flow()} == theirs
    intents = sum(each["amount_received"] for each in stripe.state.all("payment_intent"))
    assert total.paid_cents == intents == 2000 + 2 * 9900
    assert total.refunded_cents == sum(each["amount"] for each in stripe.state.all("refund")) == 500
    (paid,) = await payments.revenue.plans()
    assert (paid.plan, paid.subscribers, paid.mrr_nano) == ("starter", 1, 9900 * NANO_PER_CENT)


async def test_what_is_paid_weeks_after_its_first_decline_counts_when_it_is_paid(stripe, account, payments):
    made = datetime.fromtimestamp(stripe.state.now, UTC)
    order = await payments.flows.checkout(Wanted(account.id, "credit", parse_usd("20")))
    stripe.pages.pay(order.checkout_id or "", POOR)
    await deliver_all(payments, stripe, 0)
    told = len(stripe.state.events)
    stripe.state.now += 40 * 86_400
    stripe.pages.pay(order.checkout_id or "")  # the same intent
    assert len(stripe.state.all("payment_intent")) == 1
    await deliver_all(payments, stripe, told)
    first, until = made.replace(hour=0, minute=0, second=0, microsecond=0), made + timedelta(days=41)
    days = [first + timedelta(days=day) for day in range(41)]
    steps = await payments.revenue.steps(days, until, "day")
    assert [(at, each.flow.paid_cents) for at, each in enumerate(steps) if each.flow.payments] == [(40, 2000)]
    page = await payments.charges.page(10, since=days[40], until=until, status="paid")
    assert [each.total_cents for each in page.items] == [2000]
