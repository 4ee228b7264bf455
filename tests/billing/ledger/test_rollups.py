"""Moving fresh usage into the rollups never changes sums, also while others move, read, write or die."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from billing.database.connection import Database, DatabaseUnavailable
from billing.ledger import sums as rolling
from billing.ledger.catalogue import sync_prices
from billing.ledger.sums import LEASE, LOCK_KEY, ROLL_USAGE, TAKE_TURN, Roller, roll
from billing.ledger.verify import verify
from billing.usage import Usage
from tests.billing.support import PRICES, Billing

USAGE = Usage(input_tokens=1000, cached_input_tokens=10, output_tokens=50, reasoning_tokens=20)
# At 0.15, 0.075 and 0.60 USD a million.
COST_NANO = 990 * 150 + 10 * 75 + 50 * 600
FRESH = "SELECT count(*) FROM usage_fresh"
BUCKETS = (
    "SELECT granularity, bucket, key_id, model, requests, input_tokens, cached_input_tokens, cache_write_tokens, "
    "output_tokens, reasoning_tokens, cost_nano, charged_nano FROM usage_rollups ORDER BY granularity, bucket, key_id"
)


@pytest.fixture
async def account_id(billing: Billing) -> str:
    await sync_prices(billing.database, PRICES)
    account = await billing.accounts.create("Acme", credit_limit_nano=10**12)
    return account.id


async def fresh(billing: Billing) -> int:
    found: int = await billing.database.value(FRESH)
    return found


async def assert_verified(billing: Billing) -> None:
    verified = await verify(billing.database)
    assert verified.ok, verified


def minutes_ago(minutes: int) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


async def test_rows_become_sums_of_four_granularities(billing, account_id):
    at = datetime(2026, 3, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    await billing.database.execute("SELECT create_usage_months('2026-03-01', 2)")
    for key, admitted_at in (("a", at), ("a", at), ("b", at), ("a", at + timedelta(milliseconds=1))):
        await billing.debit(account_id, key, USAGE, admitted_at=admitted_at)
    assert await fresh(billing) == 4
    assert await roll(billing.database) == 4
    assert await fresh(billing) == 0
    rows = [tuple(row) for row in await billing.database.rows(BUCKETS)]

    def row(granularity, bucket, key, requests):
        counted = (1000, 10, 0, 50, 20, COST_NANO, COST_NANO)
        return (granularity, bucket, key, "fast", requests, *(requests * each for each in counted))

    before = [at.replace(second=0), at.replace(minute=0, second=0), at.replace(hour=0, minute=0, second=0)]
    starts = [start.replace(microsecond=0) for start in (*before, before[2].replace(day=1))]
    after = datetime(2026, 4, 1, tzinfo=UTC)
    assert rows == [
        each
        for granularity, start in enumerate(starts)
        for each in (row(granularity, start, "a", 2), row(granularity, start, "b", 1), row(granularity, after, "a", 1))
    ]
    await assert_verified(billing)


async def test_rollups_that_are_there_are_raised(billing, account_id):
    at = minutes_ago(3)
    for _ in range(3):
        await billing.debit(account_id, "a", USAGE, admitted_at=at)
        assert await roll(billing.database) == 1
        await assert_verified(billing)
    found = await billing.database.rows("SELECT requests, input_tokens FROM usage_rollups")
    assert [tuple(row) for row in found] == [(3, 3000)] * 4


async def test_a_ledger_is_right_with_rows_in_both_places(billing, account_id):
    for number in range(7):
        await billing.debit(account_id, f"key_{number % 3}", USAGE, admitted_at=minutes_ago(number % 2 + 1))
    for moved, left in ((2, 5), (2, 3), (2, 1), (1, 0)):
        assert await roll(billing.database, 2) == moved
        assert await fresh(billing) == left
        await assert_verified(billing)
    assert await roll(billing.database, 2) == 0


async def test_the_minute_that_lasts_is_left_until_there_is_much(billing, account_id):
    for number in range(6):
        await billing.debit(account_id, "a", USAGE, admitted_at=datetime.now(UTC) + timedelta(minutes=number % 2 + 1))
    await billing.debit(account_id, "a", USAGE, admitted_at=minutes_ago(1))
    assert await roll(billing.database, most_fresh=100) == 1
    assert await roll(billing.database, most_fresh=7) == 0
    assert await roll(billing.database, 4, most_fresh=6) == 4
    assert await roll(billing.database, 4, most_fresh=6) == 0
    assert await roll(billing.database, most_fresh=0) == 2
    await assert_verified(billing)


async def test_while_one_moves_another_leaves_it_be(billing, account_id):
    await billing.debit(account_id, "a", USAGE, admitted_at=minutes_ago(1))
    async with billing.database.transaction() as connection:
        assert await connection.fetchval(TAKE_TURN, LOCK_KEY)
        assert await connection.fetchval(ROLL_USAGE, 10, 10, 1, 1) == 1
        assert await roll(billing.database) == 0
        assert await fresh(billing) == 1
    assert await fresh(billing) == 0
    await assert_verified(billing)


async def move_and_die(victim: Database, other: Database) -> None:
    async with victim.transaction() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        assert await connection.fetchval(TAKE_TURN, LOCK_KEY)
        assert await connection.fetchval(ROLL_USAGE, 10, 10, 1, 1) == 1
        await other.execute("SELECT pg_terminate_backend($1)", pid)
        await connection.fetchval("SELECT 1")


async def test_a_mover_that_dies_has_moved_nothing(billing, account_id, database_url):
    await billing.debit(account_id, "a", USAGE, admitted_at=minutes_ago(1))
    victim = Database(database_url, size=1)
    try:
        with pytest.raises(DatabaseUnavailable):
            await move_and_die(victim, billing.database)
    finally:
        await victim.close()
    assert (await fresh(billing), await billing.database.value("SELECT count(*) FROM usage_rollups")) == (1, 0)
    assert await roll(billing.database) == 1
    await assert_verified(billing)


async def test_readers_writers_and_movers_at_once(billing, account_id, database_url):
    """Whatever a reader sees, requests, their tokens and cost are of the same debits, and never fewer than before."""
    accounts = [account_id, (await billing.accounts.create("Other", credit_limit_nano=10**12)).id]
    chosen = random.Random(3)  # noqa: S311
    databases = [Database(database_url, size=1) for _ in range(5)]
    written, seen = 0, 0
    done = asyncio.Event()

    async def write():
        nonlocal written
        for _ in range(60):
            at = minutes_ago(chosen.randrange(4))
            await billing.debit(chosen.choice(accounts), chosen.choice("ab"), USAGE, admitted_at=at)
            written += 1

    async def move(database):
        while not done.is_set():
            await roll(database, chosen.randrange(1, 9), most_fresh=0)

    async def read():
        nonlocal seen
        known = 0
        while not done.is_set():
            least = written
            totals = [await billing.reports.usage_totals(account) for account in accounts]
            events = sum(each.requests for each in totals)
            for each in totals:
                assert (each.input_tokens, each.output_tokens) == (each.requests * 1000, each.requests * 50)
                assert each.charged_nano == each.requests * COST_NANO
            assert events >= max(known, least)
            known, seen = events, seen + 1

    movers = [asyncio.create_task(move(database)) for database in databases[:3]]
    reader = asyncio.create_task(read())
    try:
        await asyncio.gather(write(), write(), write())
        done.set()
        await asyncio.gather(reader, *movers)
    finally:
        done.set()
        for database in databases:
            await database.close()
    assert seen > 3
    await assert_verified(billing)
    while await roll(billing.database, most_fresh=0):
        pass
    assert await fresh(billing) == 0
    await assert_verified(billing)


async def test_a_turn_moves_all_that_is_over_in_pieces(billing, account_id, monkeypatch):
    monkeypatch.setattr(rolling, "ROLL_ROWS", 2)
    monkeypatch.setattr(rolling, "VACUUM_ROWS", 3)
    for _ in range(5):
        await billing.debit(account_id, "a", USAGE, admitted_at=minutes_ago(1))
    assert await Roller(billing.database, "me").round() == 5
    assert await fresh(billing) == 0
    assert await billing.database.value(
        "SELECT sum(requests) FROM usage_rollups WHERE granularity = 0"
    ) == await billing.database.value("SELECT count(*) FROM usage_events")
    await assert_verified(billing)


async def test_one_gateway_of_all_has_the_turn(billing, account_id):
    first, second = (Roller(billing.database, owner, interval_s=60.0) for owner in ("first", "second"))

    async def debit():
        await billing.debit(account_id, "a", USAGE, admitted_at=minutes_ago(1))

    await debit()
    assert [await first.round(), await second.round()] == [1, 0]
    await debit()
    assert [await second.round(), await first.round()] == [0, 0]
    await billing.database.execute("UPDATE job_leases SET until = now() WHERE name = $1", LEASE)
    assert await second.round() == 1


async def test_it_goes_on_after_a_failure_with_fewer_rows(billing, account_id, monkeypatch):
    asked = []

    async def failing(database, rows):
        asked.append(rows)
        if len(asked) < 3:
            raise DatabaseUnavailable("away")
        return await roll(database, rows)

    monkeypatch.setattr(rolling, "roll", failing)
    await billing.debit(account_id, "a", USAGE, admitted_at=minutes_ago(1))
    running = asyncio.create_task(Roller(billing.database, "me", interval_s=0.01).run())
    try:
        async with asyncio.timeout(60):
            while await fresh(billing):
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert asked[:3] == [rolling.ROLL_ROWS, rolling.ROLL_ROWS // 2, rolling.ROLL_ROWS // 4]
