"""Credit expires at its time, once, also after days without a gateway; what is in use waits a while."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from billing.accounts.grants import Lots, Terms
from billing.change_notifier import LiveBalance
from billing.ledger.verify import verify
from billing.payments import balances
from billing.payments.balances import Expiry
from tests.billing.support import Billing, changes_told

START = datetime(2027, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@dataclass
class Clock:
    at: datetime = START

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def expiry(billing: Billing, clock: Clock) -> Expiry:
    return Expiry(billing.database, billing.grants, billing.change_notifier, clock)


async def left(billing: Billing, account_id: str) -> list[tuple[int, int]]:
    """What is left of each lot, and what has expired of it, oldest first."""
    found = (await Lots(billing.database).page(account_id, 100)).items
    return [(lot.left_nano, lot.expired_nano) for lot in reversed(found)]


async def test_what_is_left_at_its_time_is_taken_back_once(billing, clock, expiry):
    account = (await billing.accounts.create("Acme")).id
    give = billing.grants.grant
    await give(account, 10, "promo", terms=Terms(promotional=True, expires_at=START + DAY))
    await give(account, 20, "paid", terms=Terms(expires_at=START + 2 * DAY))
    await give(account, 40, "kept")
    await billing.grants.adjust(account, -4, "used", "a debit")
    assert await expiry.round() == 0
    clock.at += DAY
    with changes_told(billing.change_notifier, ("balance", account)):
        assert [await expiry.round(), await expiry.round()] == [1, 0]
    assert await left(billing, account) == [(0, 6), (20, 0), (40, 0)]
    clock.at += 9 * DAY  # no gateway ran
    assert await expiry.round() == 1
    assert await left(billing, account) == [(0, 6), (0, 20), (40, 0)]
    rows = await billing.database.rows(
        "SELECT credit_account, amount_nano, idempotency_key FROM transfers WHERE kind = 'expiry' ORDER BY id"
    )
    assert [(row["credit_account"], row["amount_nano"]) for row in rows] == [("sys:promotions", 6), ("sys:revenue", 20)]
    assert all(row["idempotency_key"].startswith("expiry:lot_") for row in rows)
    assert (await billing.accounts.get(account)).balance_nano == 40
    assert (await verify(billing.database)).ok


async def test_what_was_used_up_is_not_taken(billing, clock, expiry):
    account = (await billing.accounts.create("Acme")).id
    await billing.grants.grant(account, 10, "promo", terms=Terms(expires_at=START))
    await billing.grants.adjust(account, -15, "used", "debits")
    with changes_told(billing.change_notifier):
        assert await expiry.round() == 0
    assert (await billing.accounts.get(account)).balance_nano == -5
    assert await billing.database.value("SELECT count(*) FROM lots WHERE left_nano > 0") == 0  # none is due any more


@pytest.mark.parametrize("live", [LiveBalance(10, 3), LiveBalance(7, 0)], ids=["held", "a debit is on its way"])
async def test_credit_in_use_waits_but_not_for_ever(billing, clock, expiry, live):
    account = (await billing.accounts.create("Acme")).id
    await billing.grants.grant(account, 10, "promo", terms=Terms(expires_at=START))
    billing.change_notifier.live[account] = live
    clock.at += 59 * MINUTE
    assert await expiry.round() == 0
    billing.change_notifier.live[account] = LiveBalance(10, 0)
    assert await expiry.round() == 1
    await billing.grants.grant(account, 10, "more", terms=Terms(expires_at=START))
    billing.change_notifier.live[account] = live
    clock.at += MINUTE
    assert await expiry.round() == 1


async def test_a_round_is_bounded_and_goes_on(billing, clock, expiry, monkeypatch):
    monkeypatch.setattr(balances, "MOST", 2)
    busy, idle = [(await billing.accounts.create(name)).id for name in ("Busy", "Idle")]
    for n, account in enumerate((busy, busy, idle)):
        await billing.grants.grant(account, 10, f"g{n}", terms=Terms(expires_at=START))
    billing.change_notifier.live[busy] = LiveBalance(20, 1)
    assert [await expiry.round(), await expiry.round()] == [0, 1]
    assert await left(billing, idle) == [(0, 10)]
