"""What customers were charged, in every way in which they pay, compared with the payment provider's own sum."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from billing import audit
from billing.money import NANO_PER_CENT, parse_usd
from billing.payments.auto_recharge import Wish
from billing.payments.flows import Wanted
from billing.payments.port import ObjectRef, Payment, PaymentProvider
from tests.billing.payments.stripe.conftest import provider as provider
from tests.billing.payments.stripe.conftest import stripe as stripe
from tests.billing.payments.stripe.test_plans import deliver_all
from tests.billing.payments.stripe.test_plans import payments as stripe_payments
from tests.billing.payments.test_plans_bought import START, Shop
from tests.support.stripe_fake import VISA

payments = stripe_payments
EARLIER = START - timedelta(days=1)


async def paid_at_provider(provider: PaymentProvider) -> tuple[int, int]:
    """How many payments the provider says that it has taken, and their sum in cents."""
    paid = []
    async for ref in provider.list_since("payment", datetime(2020, 1, 1, tzinfo=UTC)):
        found = await provider.fetch(ref)
        assert isinstance(found, Payment)
        if found.status == "paid":
            paid.append(found.total_cents)
    return len(paid), sum(paid)


async def buy_credit(shop: Shop, usd: str, key: str) -> str:
    order = await shop.payments.flows.checkout(Wanted(shop.account_id, key, parse_usd(usd)))
    assert order.url is not None
    await shop.act(order.url, "approve")
    return order.url


async def recharged(shop: Shop, settled: Callable[[], Awaitable[object]], key: str = "debits") -> None:
    """Have the account's saved card charged because its balance is low."""
    account = await shop.billing.accounts.get(shop.account_id)
    await shop.payments.recharges.put(shop.account_id, Wish(True, parse_usd("5"), 2500, 100_000), actor=audit.ADMIN)
    await shop.billing.grants.adjust(shop.account_id, -account.balance_nano, key, "used")
    await shop.payments.auto_recharge.round()
    await settled()


async def test_a_month_of_payments_of_every_kind_is_listed_and_summed(billing):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    credit = await buy_credit(shop, "20", "credit")
    await shop.buy("starter", "plan")
    await shop.standing()
    await shop.act(credit, "refund_half")
    await shop.on_portal("save:visa 4242")
    await shop.standing()
    shop.now = START + timedelta(days=10)
    await shop.payments.changes.change(shop.account_id, "pro")
    await shop.standing()
    await recharged(shop, shop.standing)
    shop.now = datetime(2028, 2, 29, 10, 1, tzinfo=UTC)  # the plan is renewed
    await shop.standing()
    await shop.on_portal("save:visa 9995")
    shop.now = datetime(2028, 3, 31, 10, 1, tzinfo=UTC)  # and is not paid
    await shop.standing()

    count, cents = await paid_at_provider(shop.payments.provider)
    sums = await shop.payments.charges.sums(EARLIER, shop.now + timedelta(days=1))
    assert (sums.payments, sums.paid_cents, sums.refunded_cents) == (count, cents, 1000)
    listed = (await shop.payments.charges.page(100)).items
    assert (len(listed), sum(each.total_cents for each in listed)) == (count, cents)
    assert [each.kind for each in listed] == ["plan", "recharge", "plan", "plan", "credit"]
    assert [each.created_at for each in listed] == sorted((each.created_at for each in listed), reverse=True)
    assert sum(each.refunded_cents for each in listed) == 1000
    assert cents > 2000 + 2500  # the plan, its upgrade and its renewal count

    paged, after = [], None
    while not paged or after is not None:
        page = await shop.payments.charges.page(2, after)
        paged += page.items
        after = page.next_after
    assert paged == list(listed)
    first_day = await shop.payments.charges.sums(START, START + timedelta(days=1))
    assert first_day.payments == 2
    assert (await shop.payments.charges.page(10, account_id="acc_other")).items == ()


async def test_a_dispute_takes_its_payment_back(billing):
    shop = Shop(billing, (await billing.accounts.create("Acme")).id)
    credit = await buy_credit(shop, "20", "credit")
    await shop.standing()
    await shop.act(credit, "dispute")
    await shop.standing()
    sums = await shop.payments.charges.sums(EARLIER, shop.now + timedelta(days=1))
    assert (sums.paid_cents, sums.disputed_cents) == (2000, 2000)
    await shop.act(credit, "win")
    await shop.standing()
    assert (await shop.payments.charges.sums(EARLIER, shop.now + timedelta(days=1))).disputed_cents == 0


async def test_stripes_sum_is_the_same(stripe, account, payments):
    credit = await payments.flows.checkout(Wanted(account.id, "credit", parse_usd("20")))
    stripe.pages.pay(credit.checkout_id or "")
    plan = await payments.flows.checkout(Wanted(account.id, "plan", plan="starter"))
    stripe.pages.pay(plan.checkout_id or "")
    await deliver_all(payments, stripe, 0)
    stripe.subscriptions.renew(stripe.state.all("subscription")[0]["id"])
    stripe.payments.save_card(stripe.state.all("customer")[0]["id"], VISA)
    await deliver_all(payments, stripe, 1)
    count, cents = await paid_at_provider(payments.provider)
    sums = await payments.charges.sums(datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    assert (sums.payments, sums.paid_cents) == (count, cents) == (3, 2000 + 2 * 9900)
    charged = sum(each["amount_received"] for each in stripe.state.all("payment_intent"))
    assert charged == cents
    refs = [ObjectRef("payment", each.id) for each in (await payments.charges.page(10)).items]
    assert len(set(refs)) == count
    assert NANO_PER_CENT * cents == parse_usd("218")
