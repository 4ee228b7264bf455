"""Subscriptions on a real database: plan, credit and notices by what is seen, and recovery by a clock that is moved."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from billing.accounts.grants import Grants
from billing.money import format_usd
from billing.payments.port import Invoice, InvoiceLine, Subscription
from billing.payments.subscriptions import Recovery, Subscriptions
from tests.billing.payments.test_in_force import PLANS
from tests.billing.support import Billing, changes_told

START = datetime(2028, 1, 31, 10, tzinfo=UTC)
# A month after the last of January: Stripe bills on the last day of a month that lacks the day.
LEAP_DAY = datetime(2028, 2, 29, 10, tzinfo=UTC)


@dataclass
class Scene:
    """One account and its subscription at a provider that the test plays, by a clock that it moves."""

    billing: Billing
    account_id: str
    now: datetime = START
    seen: Subscription = field(
        default_factory=lambda: Subscription(
            "sub_1",
            "active",
            "cus_1",
            "ord_1",
            None,
            "price_s",
            START,
            LEAP_DAY,
            livemode=False,
            created_at=START,
        )
    )

    def __post_init__(self) -> None:
        grants = Grants(self.billing.database, self.billing.change_notifier, self.billing.new_id)
        self.subscriptions = Subscriptions(PLANS, grants, "free", timedelta(days=10), lambda: self.now)
        notifier = self.billing.change_notifier
        self.recovery = Recovery(self.billing.database, self.subscriptions, notifier, "this")

    async def apply(self, **changes: object) -> tuple[str, str]:
        """See the subscription with these changes, twice, and say which plan and status the account has."""
        self.seen = replace(self.seen, **changes)
        for _ in range(2):
            async with self.billing.database.transaction() as connection:
                await self.subscriptions.apply(connection, "stripe", self.account_id, self.seen)
        return await self.account()

    async def paid(self, invoice_id: str, price: str, cents: int) -> list[bool]:
        """See a paid invoice of the period, twice."""
        line = InvoiceLine("il_1", "subscription", cents, price, self.seen.period_start, self.seen.period_end)
        absent = dict.fromkeys(("payment_id", "order_id", "deployment"))
        invoice = Invoice(
            invoice_id, "paid", "cus_1", "sub_1", **absent, amount_cents=cents, total_cents=cents, currency="usd",
            lines=(line,), livemode=False, created_at=self.now,
        )  # fmt: skip
        given = []
        for _ in range(2):
            async with self.billing.database.transaction() as connection:
                given.append(await self.subscriptions.apply_invoice(connection, "stripe", self.account_id, invoice))
        return given

    async def account(self) -> tuple[str, str]:
        account = await self.billing.accounts.get(self.account_id)
        return account.plan, account.status

    async def told(self) -> list[str]:
        """The types of the notices so far, each with its plan."""
        rows = await self.billing.database.rows("SELECT type, data FROM notices ORDER BY created_at, id")
        return [f"{row['type']} {row['data']['plan']}" for row in rows]


async def test_a_subscription_over_a_leap_day_from_start_to_end(billing):
    scene = Scene(billing, (await billing.accounts.create("Acme")).id)
    assert await scene.apply(status="incomplete") == ("free", "active")
    assert await scene.apply(status="active") == ("starter", "active")
    assert await scene.paid("in_1", "price_s", 9900) == [True, False]
    assert await scene.paid("in_1", "pro", 29900) == [False, False]  # by now another plan has that price
    account = await billing.accounts.get(scene.account_id)
    assert format_usd(account.balance_nano) == "50.00"
    lot = await billing.database.row("SELECT * FROM lots_now WHERE account_id = $1", scene.account_id)
    assert (lot["expires_at"], lot["kind"]) == (LEAP_DAY, "subscription")

    # The next period: dearer at once, then unpaid, within and after the days of grace.
    scene.now = LEAP_DAY
    period = {"period_start": LEAP_DAY, "period_end": datetime(2028, 3, 31, 10, tzinfo=UTC)}
    assert await scene.apply(price_id="pro", **period) == ("pro", "active")
    assert await scene.apply(status="past_due") == ("pro", "past_due")
    since = (await billing.accounts.get(scene.account_id)).past_due_since
    assert since == LEAP_DAY
    scene.now = LEAP_DAY + timedelta(days=9, hours=23)
    assert await scene.recovery.round() == 0
    assert await scene.apply() == ("pro", "past_due")
    scene.now = LEAP_DAY + timedelta(days=10)
    with changes_told(billing.change_notifier, ("account", scene.account_id)):
        assert await scene.recovery.round() == 1
        assert await scene.recovery.round() == 0
    assert await scene.account() == ("free", "active")

    # Paid after all: back at once. Then it is to end, by the portal's `cancel_at`, and does.
    assert await scene.apply(status="active") == ("pro", "active")
    assert await scene.apply(cancel_at=period["period_end"]) == ("pro", "active")
    assert await scene.apply(status="canceled") == ("free", "active")
    assert await scene.told() == [
        "subscription.changed starter",
        "subscription.changed pro",
        "subscription.past_due pro",
        "subscription.ended free",
        "subscription.changed pro",
        "subscription.changed pro",
        "subscription.ended free",
    ]


async def test_what_an_operator_ordered_stays_until_the_subscription_changes(billing):
    scene = Scene(billing, (await billing.accounts.create("Acme")).id)
    await scene.apply()
    await billing.accounts.update(scene.account_id, plan="starter", status="suspended")
    assert await scene.apply(status="past_due") == ("starter", "suspended")
    assert await scene.apply(status="active") == ("starter", "suspended")
    # An account without a subscription is never touched, whatever plan it has.
    other = await billing.accounts.create("Other", "starter")
    async with billing.database.transaction() as connection:
        await scene.subscriptions.judge(connection, other.id)
    assert (await billing.accounts.get(other.id)).plan == "starter"
