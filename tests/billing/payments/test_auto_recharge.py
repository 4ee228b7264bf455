"""Auto-recharge on the local provider: one charge at a time, never two for one attempt, and when it waits or stops."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from billing import audit
from billing.accounts.grants import Lots, Terms
from billing.errors import AccountNotFound
from billing.payments import auto_recharge as module
from billing.payments.auto_recharge import RechargeRefused, Wish
from billing.payments.balances import Alert, Alerts
from billing.payments.events import KEYS_KEPT, call_once
from billing.payments.port import ObjectRef, PaymentProviderUnavailable
from billing.payments.stripe.provider import AccessRefused
from tests.billing.payments.support import local_payments
from tests.billing.support import PLANS, Billing

if TYPE_CHECKING:
    from billing.payments.assembly import Payments
    from billing.payments.port import Payment


USD = 1_000_000_000
HOUR = timedelta(hours=1)
HOME = "https://gateway.example"
GOOD, POOR, STOLEN, ASKS = "visa 4242", "visa 9995", "visa 9979", "visa 3155"
WISH = Wish(True, 5 * USD, 2000, 10_000)


class Installation:
    """Payments on the local provider, with a clock that a test moves."""

    def __init__(self, billing: Billing) -> None:
        self.billing, self.now = billing, datetime.now(UTC).replace(day=1, hour=12)  # no month ends meanwhile
        self.payments = self.started()

    def started(self) -> Payments:
        """A new process on the same stores."""
        return local_payments(self.billing, PLANS, HOME, now=lambda: self.now, credit_days=30)

    async def account(self, card: str | None = GOOD, wish: Wish | None = WISH) -> str:
        account_id = (await self.billing.accounts.create("Acme")).id
        if card is not None:
            await self.save(account_id, card)
        if wish is not None:
            await self.payments.recharges.put(account_id, wish, actor=audit.ADMIN)
        return account_id

    async def save(self, account_id: str, card: str) -> None:
        """Save a test card as the payer would."""
        payments = self.payments
        page = await payments.flows.save_method(account_id, None)
        await payments.acts.act(page.url.rpartition("/")[2], f"save:{card}")
        customer_id = await payments.customers.find(account_id)
        await payments.applier.refresh(ObjectRef("customer", customer_id or ""))

    async def round(self, later: timedelta = timedelta(0)) -> int:
        self.now += later
        return await self.payments.auto_recharge.round()

    async def standing(self, account_id: str) -> tuple[str, str | None, int]:
        """State, reason, and the balance in cents."""
        recharge = await self.payments.recharges.get(account_id)
        assert recharge is not None
        balance = (await self.billing.accounts.get(account_id)).balance_nano
        return recharge.state, recharge.reason, balance // 10_000_000

    async def notices(self, account_id: str) -> list[dict[str, Any]]:
        rows = await self.billing.database.rows(
            "SELECT data FROM notices WHERE account_id = $1 AND type = 'auto_recharge.failed' ORDER BY created_at",
            account_id,
        )
        return [row["data"] for row in rows]

    async def charged(self) -> int:
        """How many payments the provider has made."""
        return int(await self.billing.database.value("SELECT count(*) FROM local_objects WHERE kind = 'payment'"))


@pytest.fixture
def here(billing: Billing) -> Installation:
    return Installation(billing)


async def test_who_falls_below_is_charged_up_to_the_months_cap(here):
    account = await here.account()
    idle = await here.account()
    await here.billing.grants.grant(idle, 5 * USD, "enough")
    assert [await here.round(), await here.round()] == [1, 0]  # the second is too soon, whatever the balance is
    assert await here.standing(account) == ("ready", None, 2000)
    assert await here.standing(idle) == ("ready", None, 500)
    (lot,) = (await Lots(here.billing.database).page(account, 5)).items
    assert (lot.kind, lot.terms) == ("purchase", Terms(expires_at=here.now + timedelta(days=30)))
    order = (await here.payments.orders.page(5, account_id=account)).items[0]
    assert (order.kind, order.status, order.amount_cents) == ("recharge", "credited", 2000)
    for n in range(5):  # which use all of it up
        balance_nano = (await here.billing.accounts.get(account)).balance_nano
        await here.billing.grants.adjust(account, -balance_nano or -1, f"used{n}", "debits")
        await here.round(HOUR)
    assert await here.charged() == 5
    state, reason, _ = await here.standing(account)
    assert (state, reason) == ("capped", "monthly_cap")
    (notice,) = await here.notices(account)
    following = (here.now.replace(day=1) + timedelta(days=32)).strftime("%Y-%m-01T00:00:00.000Z")
    assert (notice["reason"], notice["next_attempt_at"]) == ("monthly_cap", following)
    await here.payments.recharges.put(account, Wish(True, 5 * USD, 2000, 20_000), actor=audit.ADMIN)
    assert await here.round() == 1


async def test_declines_wait_longer_each_time_and_then_it_stops(here):
    account = await here.account(POOR)
    assert await here.round() == 1
    assert await here.standing(account) == ("waiting", "insufficient_funds", 0)
    assert await here.round(HOUR - timedelta(seconds=1)) == 0
    assert await here.round(timedelta(seconds=1)) == 1
    assert await here.round(HOUR) == 0
    assert await here.round(HOUR) == 1
    assert await here.standing(account) == ("stopped", "insufficient_funds", 0)
    assert await here.round(240 * HOUR) == 0
    notices = await here.notices(account)
    assert [each["state"] for each in notices] == ["waiting", "waiting", "stopped"]
    assert [each["next_attempt_at"] is None for each in notices] == [False, False, True]
    assert await here.charged() == 3
    await here.save(account, GOOD)
    await here.payments.recharges.put(account, WISH, actor=audit.ADMIN)
    assert await here.round() == 1
    assert await here.standing(account) == ("ready", None, 2000)


@pytest.mark.parametrize(("card", "reason"), [(STOLEN, "stolen_card"), (ASKS, "authentication_required")])
async def test_what_is_final_or_needs_the_payer_stops_at_once(here, card, reason):
    account = await here.account(card)
    assert [await here.round(), await here.round(23 * HOUR)] == [1, 0]
    assert await here.standing(account) == ("stopped", reason, 0)
    (notice,) = await here.notices(account)
    assert notice["reason"] == reason
    assert here.payments.acts is not None  # the page of the link takes another card
    assert await here.payments.acts.view(notice["url"].rpartition("/")[2]) is not None


async def test_a_payment_that_is_processed_for_weeks_is_waited_for_no_longer(here, monkeypatch):
    """It is paid in the end, and credited once: nothing else was charged meanwhile."""
    account, payments, charge = await here.account(), here.payments, here.payments.provider.charge
    shown: list[Payment] = []

    async def is_processing(purchase, key):
        shown.append(replace(await charge(purchase, key), status="processing", created_at=here.now))
        return shown[0]

    async def find(*_):
        return shown[0]

    with monkeypatch.context() as patched:
        patched.setattr(payments.provider, "charge", is_processing)
        patched.setattr(payments.provider, "find_payment", find)
        patched.setattr(payments.flows, "refresh", find)
        for later in (timedelta(0), module.MOST_PROCESSING - HOUR):
            assert await here.round(later) == 1
            assert await here.standing(account) == ("charging", None, 0)
        await payments.orders.refresh_stats()
        assert payments.orders.undecided == 0
        await here.billing.database.execute("UPDATE orders SET created_at = now() - interval '25 hours'")
        await payments.orders.refresh_stats()
        assert payments.orders.undecided == 1
        assert [await here.round(HOUR), await here.round(HOUR)] == [1, 0]
    assert await here.standing(account) == ("stopped", "payment_pending", 0)
    (notice,) = await here.notices(account)
    assert (notice["reason"], notice["next_attempt_at"]) == ("payment_pending", None)
    await payments.applier.refresh(ObjectRef("payment", shown[0].id))
    await payments.orders.refresh_stats()
    assert (payments.orders.undecided, await here.charged()) == (0, 1)
    assert await here.standing(account) == ("stopped", "payment_pending", 2000)


async def test_keys_are_kept_for_as_long_as_they_are_asked_for(here):
    database, keys = here.billing.database, ("asked for", "forgotten")
    made: list[str] = []

    async def call(key):
        made.append(key)
        if key in keys:
            error = PaymentProviderUnavailable("it failed, and keeps that")
            error.key_is_spent = True
            raise error

    for key in keys:
        await call_once(database, key, call, tries=2)
    await database.execute("UPDATE spent_payment_keys SET spent_at = now() - $1::interval", KEYS_KEPT)
    await call_once(database, "asked for", call)
    await here.payments.events.tidy()
    assert made[1::2] == ["2:asked for", "2:forgotten"]
    assert made[4:] == ["2:asked for"]
    assert [row["key"] for row in await database.rows("SELECT key FROM spent_payment_keys")] == ["asked for"]


@pytest.mark.parametrize("step", ["before the order", "before the charge", "after the charge"])
async def test_a_process_that_dies_between_two_steps_charges_once(here, step, monkeypatch):
    account = await here.account()
    payments = here.payments

    async def create(asked):
        raise RuntimeError

    async def die(order):
        if step == "after the charge":
            customer_id = await payments.customers.find(account)
            purchase = payments.flows._purchase(order, customer_id or "")
            await payments.provider.charge(purchase, f"{order.id}:charge")
        raise RuntimeError

    if step == "before the order":
        monkeypatch.setattr(payments.orders, "create", create)
    else:
        monkeypatch.setattr(payments.flows, "charge", die)
    with pytest.raises(RuntimeError):
        await here.round()
    assert (await here.standing(account))[0] == "charging"
    here.payments = here.started()
    assert await here.round() == 0  # it may still be under way
    await here.payments.recharges.put(account, Wish(True, 5 * USD, 3000, 9000), actor=audit.ADMIN)
    here.now += 30 * HOUR  # the provider has forgotten the key of the call
    await here.billing.database.execute("DELETE FROM local_keys")
    assert [await here.round(), await here.round(), await here.round(HOUR)] == [1, 0, 0]
    assert await here.charged() == 1
    cents = 3000 if step == "before the order" else 2000
    assert await here.standing(account) == ("ready", None, cents)


async def test_switched_off_while_it_was_broken_off(here, monkeypatch):
    account = await here.account()
    failures = iter([PaymentProviderUnavailable("it is away"), AccessRefused("the operator's key is wrong")])

    async def away(order):
        raise next(failures)

    monkeypatch.setattr(here.payments.flows, "charge", away)
    assert [await here.round(), await here.round(HOUR)] == [1, 1]  # asked again, under the same order
    assert len((await here.payments.orders.page(5, account_id=account)).items) == 1
    off = Wish(False, 5 * USD, 2000, 10_000)
    assert (await here.payments.recharges.put(account, off, actor=audit.ADMIN)).state == "charging"
    here.payments = here.started()
    assert await here.round(HOUR) == 1
    assert await here.standing(account) == ("off", None, 0)
    assert [await here.charged(), await here.round(HOUR)] == [0, 0]


@pytest.mark.parametrize("change", ["closed", "suspended", "credited", "capped"])
async def test_what_was_broken_off_or_found_due_is_not_charged_any_more(here, monkeypatch, change):
    first, second = sorted([await here.account(), await here.account()])

    async def changes(account_id):
        if change in ("closed", "suspended"):
            await here.billing.database.execute("UPDATE accounts SET status = $2 WHERE id = $1", account_id, change)
        elif change == "credited":
            await here.billing.grants.grant(account_id, 5 * USD, "enough")
        else:
            await here.payments.recharges.put(account_id, Wish(True, 0, 500, 500), actor=audit.ADMIN)

    async def breaks_off(order):
        await changes(second)  # which the same round has found to be due
        raise PaymentProviderUnavailable("it is away")

    with monkeypatch.context() as patched:
        patched.setattr(here.payments.flows, "charge", breaks_off)
        await here.round()
    await changes(first)
    await here.round(HOUR)
    assert await here.charged() == 0
    assert (await here.standing(first))[0] == (await here.standing(second))[0] == "ready"
    (order,) = (await here.payments.orders.page(5)).items
    assert (order.account_id, order.status, order.reason) == (first, "failed", "not_wanted")


async def test_a_wish_that_can_not_be(here):
    account = await here.account(None, None)
    put = here.payments.recharges.put
    for wish, message in (
        (WISH, "payment method first"),
        (Wish(True, USD, 499, 1000), "5.00 to 10000.00 USD"),
        (Wish(True, USD, 1000, 999), "not be below amount_usd"),
    ):
        with pytest.raises(RechargeRefused, match=message):
            await put(account, wish, actor=audit.ADMIN)
    assert await here.payments.recharges.get(account) is None
    off = await put(account, Wish(False, USD, 1000, 1000), actor=audit.ADMIN)
    assert (off.state, await here.round()) == ("off", 0)


async def told(billing: Billing) -> list[tuple[str, str, str]]:
    rows = await billing.database.rows("SELECT account_id, data FROM notices WHERE type = 'balance.low'")
    return [(row["account_id"], row["data"]["available_usd"], row["data"]["threshold_usd"]) for row in rows]


async def test_once_for_each_crossing(billing, monkeypatch):
    monkeypatch.setattr("billing.payments.balances.ACCOUNTS_READ", 2)
    alerts = Alerts(billing.database, 5 * USD)
    poor, rich, own = [(await billing.accounts.create(name)).id for name in ("Poor", "Rich", "Own")]

    async def look():
        return sum([await alerts.round() for _ in range(2)])  # two rounds see all three

    async def move(account_id, usd, key):
        await billing.grants.adjust(account_id, usd * USD, key, "test")

    await move(rich, 10, "a")
    await move(own, 10, "a")
    await alerts.put(own, 20 * USD, actor=audit.ADMIN)
    assert await look() == 0  # none was above before
    await move(rich, -6, "b")
    assert [await look(), await look()] == [1, 0]
    await move(rich, -1, "c")
    assert await look() == 0
    await move(rich, 7, "d")
    await move(own, 15, "d")
    assert await look() == 0
    await move(rich, -6, "e")
    await move(own, -6, "e")
    assert [await look(), await look()] == [2, 0]
    crossings = [(rich, "4.00", "5.00"), (rich, "4.00", "5.00"), (own, "19.00", "20.00")]
    assert sorted(await told(billing)) == sorted(crossings)
    assert poor not in {account_id for account_id, _, _ in await told(billing)}


async def test_a_credit_limit_counts_as_what_may_be_spent(billing):
    alerts = Alerts(billing.database, 5 * USD)
    account = (await billing.accounts.create("Invoiced", credit_limit_nano=20 * USD)).id
    assert await alerts.round() == 0
    await billing.grants.adjust(account, -16 * USD, "used", "debits")
    assert await alerts.round() == 1
    assert await told(billing) == [(account, "4.00", "5.00")]


async def test_a_threshold_is_set_and_given_up(billing):
    alerts = Alerts(billing.database, 5 * USD)
    account = (await billing.accounts.create("Acme")).id
    assert await alerts.get(account) == Alert(5 * USD, is_default=True, armed=False)
    assert await alerts.put(account, 7, actor=audit.ADMIN) == Alert(7, is_default=False, armed=False)
    assert (await alerts.put(account, None, actor=audit.ADMIN)).is_default
    with pytest.raises(AccountNotFound):
        await alerts.put("acc_none", 7, actor=audit.ADMIN)
    entries = await billing.database.rows(
        "SELECT before, after FROM audit_log WHERE action = 'account.alert' ORDER BY id"
    )
    assert [row["after"] for row in entries] == [{"threshold_usd": "0.000000007"}, {"threshold_usd": None}]
