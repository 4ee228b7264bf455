"""Months of usage events go once they are proved, no others; the ledger is proved without them, and nothing is debited
again."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from billing.ledger.catalogue import sync_prices
from billing.ledger.debits import Debit
from billing.ledger.retention import UsageRetention
from billing.ledger.sums import roll
from billing.ledger.verify import verify
from billing.ledger.writer import write_debits
from billing.usage import Usage
from tests.billing.support import PRICES, Billing

pytestmark = pytest.mark.slow

USAGE = Usage(input_tokens=1000, output_tokens=50)
NOW = datetime.now(UTC)
THIS_MONTH = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def months_ago(months: int) -> datetime:
    at = THIS_MONTH
    for _ in range(months):
        at = (at - timedelta(days=1)).replace(day=1)
    return at + timedelta(days=3, hours=5)


OLD, KEPT = months_ago(3), months_ago(2)


@pytest.fixture
async def account_ids(billing: Billing) -> list[str]:
    """Two accounts with requests of old and kept months and of now: charged, free, and of nothing that counts."""
    await sync_prices(billing.database, PRICES)
    made = [(await billing.accounts.create(name)).id for name in ("Acme", "Other")]
    for at in (months_ago(4), OLD, OLD + timedelta(days=20), KEPT, NOW):
        for account_id in made:
            await billing.debit(account_id, "key_1", USAGE, admitted_at=at)
        await billing.debit(made[0], "key_2", Usage(input_tokens=0), admitted_at=at)
    return made


@pytest.fixture
def retention(billing: Billing) -> UsageRetention:
    return UsageRetention(billing.database, 2, "one", time.time)


async def events(billing: Billing) -> int:
    return int(await billing.database.value("SELECT count(*) FROM usage_events"))


async def differences(billing: Billing) -> dict[str, tuple[str, ...]]:
    return {check.name: check.examples for check in (await verify(billing.database)).checks if check.differences}


def name_of(at: datetime) -> str:
    return f"usage_events_{at:%Y_%m}"


async def test_old_months_go_and_the_ledger_is_proved(billing, retention, account_ids):
    totals = await billing.reports.usage_totals(account_ids[0])
    assert await retention.round() == []  # all is fresh still
    assert retention.kept == 2
    await roll(billing.database, most_fresh=0)
    assert await retention.round() == [name_of(months_ago(4)), name_of(OLD)]
    assert retention.kept == 0
    assert await events(billing) == 6
    assert await differences(billing) == {}
    assert await billing.reports.usage_totals(account_ids[0]) == totals
    kept = await billing.database.row(
        "SELECT * FROM usage_months_dropped WHERE account_id = $1 AND month = $2",
        account_ids[0],
        OLD.date().replace(day=1),
    )
    assert (kept["requests"], kept["charges"], kept["charged_nano"]) == (4, 2, kept["counted_nano"])
    assert await retention.round() == []


async def test_a_month_that_differs_stays(billing, retention, account_ids):
    await roll(billing.database, most_fresh=0)
    await billing.database.execute("UPDATE usage_sums SET requests = requests + 1 WHERE bucket = $1", OLD)
    assert await retention.round() == [name_of(months_ago(4))]
    assert retention.kept == 1
    await billing.database.execute("UPDATE usage_sums SET requests = requests - 1 WHERE bucket = $1", OLD)
    assert await retention.round() == [name_of(OLD)]
    assert retention.kept == 0


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("DELETE FROM transfers WHERE id = (SELECT min(id) FROM transfers)", "transfers"),
        ("UPDATE transfers SET amount_nano = amount_nano + 1 WHERE id = (SELECT min(id) FROM transfers)", "transfers"),
        ("UPDATE transfers SET request_id = 'x' WHERE id = (SELECT min(id) FROM transfers)", "transfers"),
        ("UPDATE usage_sums SET requests = requests + 1 WHERE bucket = $1", "dropped"),
        ("DELETE FROM usage_sums WHERE bucket = $1 AND granularity = 3", "dropped"),
        ("DELETE FROM usage_months_dropped WHERE month = ($1 AT TIME ZONE 'UTC')::date", "transfers"),
    ],
)
async def test_what_is_wrong_is_found_without_the_events(billing, retention, account_ids, change, check):
    await roll(billing.database, most_fresh=0)
    await retention.round()
    month = OLD.replace(day=1, hour=0)
    async with billing.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(change, *([month] if "$1" in change else []))
    found = await differences(billing)
    assert account_ids[0] in found[check][0] or "request " in found[check][0]


async def test_a_request_of_a_dropped_month_is_not_debited_again(billing, retention, account_ids):
    row = await billing.database.row("SELECT * FROM usage_events WHERE admitted_at = $1 AND charged_nano > 0", OLD)
    assert row is not None
    fields = {name: row[name] for name in Debit.__struct_fields__ if name in dict(row)}
    debit = Debit(
        **{**fields, "admitted_at_ms": int(OLD.timestamp() * 1000), "tags": None, "counts": None, "by_model": None}
    )
    await roll(billing.database, most_fresh=0)
    await retention.round()
    balance = (await billing.accounts.get(debit.account_id)).balance_nano
    assert await write_debits(billing.database, [debit]) == {}
    assert await billing.database.value("SELECT request_id FROM debits_set_aside") == debit.request_id
    assert (await billing.accounts.get(debit.account_id)).balance_nano == balance
    assert await differences(billing) == {}


async def test_a_late_debit_into_a_dropped_month_is_kept_and_goes_too(billing, retention, account_ids):
    await roll(billing.database, most_fresh=0)
    await retention.round()
    await billing.debit(account_ids[1], "key_1", USAGE, admitted_at=OLD)
    assert await differences(billing) == {}
    await roll(billing.database, most_fresh=0)
    assert await differences(billing) == {}
    assert await retention.round() == [name_of(OLD)]
    assert await differences(billing) == {}


async def test_who_reads_is_waited_for_and_nothing_is_lost(billing, account_ids, monkeypatch):
    monkeypatch.setattr("billing.ledger.retention.DROP_TRIES", 1)
    retention = UsageRetention(billing.database, 2, "one", time.time)
    await roll(billing.database, most_fresh=0)
    async with billing.database.transaction() as connection:
        await connection.fetch("SELECT * FROM usage_events LIMIT 1")
        before = await events(billing)
        with pytest.raises(Exception, match="lock"):
            await retention.round()
        assert await events(billing) == before
        await asyncio.wait_for(billing.debit(account_ids[0], "key_1", USAGE), 5)
    assert len(await retention.round()) == 2
    assert await differences(billing) == {}


@pytest.mark.parametrize("months_ahead", [-2, 1200])
async def test_one_wrong_clock_drops_nothing_more(billing, account_ids, months_ahead):
    await roll(billing.database, most_fresh=0)
    retention = UsageRetention(billing.database, 2, "one", lambda: time.time() + months_ahead * 31 * 86_400)
    dropped = await retention.round()
    assert dropped == ([] if months_ahead < 0 else [name_of(months_ago(4)), name_of(OLD)])


def test_two_months_at_least(billing):
    with pytest.raises(ValueError, match="2"):
        UsageRetention(billing.database, 1, "one", time.time)
