"""Every kind of difference is found and named, and a ledger that real debits wrote has none."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from billing.database.connection import Database
from billing.ledger import verify as verification
from billing.ledger.catalogue import sync_prices
from billing.ledger.debits import Debit
from billing.ledger.sums import roll
from billing.ledger.verify import EXAMPLES_LIMIT, Checked, Verified, verify
from billing.ledger.writer import write_debits
from billing.money import NANO_PER_USD
from billing.pricing import FACTOR_SCALE
from billing.usage import Usage
from tests.billing.support import PRICE, PRICES, Billing

USAGE = Usage(
    input_tokens=1000, cached_input_tokens=100, audio_input_tokens=7, output_tokens=50, reasoning_tokens=20, searches=2
)

TWICE = """
INSERT INTO usage_events SELECT (jsonb_populate_record(e, jsonb_build_object('admitted_at',
    e.admitted_at + interval '1 second'))).* FROM usage_events AS e WHERE request_id = $1"""

# The dimensions of the one key that used this model.
SLOW = "(SELECT id FROM usage_dimensions WHERE model = 'slow')"

Spoil = Callable[..., Awaitable[None]]


@pytest.fixture
async def account_id(billing: Billing) -> str:
    """An account with credit, and the price row that the tests' debits name."""
    await sync_prices(billing.database, PRICES)
    account = await billing.accounts.create("Acme")
    await billing.grants.grant(account.id, 5 * NANO_PER_USD, "first")
    return account.id


@pytest.fixture
def spoil(billing: Billing) -> Spoil:
    """Changes what the database itself refuses to have changed."""

    async def change(query: str, *arguments: object) -> None:
        async with billing.database.transaction() as connection:
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(query, *arguments)

    return change


def differences(verified: Verified) -> dict[str, Checked]:
    """The checks that found something, by name."""
    assert verified.ok == (not any(check.differences for check in verified.checks))
    return {check.name: check for check in verified.checks if check.differences}


async def debits(billing: Billing, account_id: str) -> list[str]:
    """Requests of every kind: with a multiplier, a markup, another month, free of charge."""
    return [
        await billing.debit(account_id, "key_1", USAGE),
        await billing.debit(account_id, "key_1", USAGE, multiplier="batch"),
        await billing.debit(account_id, "key_2", USAGE, markup_scaled=20 * FACTOR_SCALE, model="slow"),
        await billing.debit(account_id, "key_1", USAGE, admitted_at=datetime.now(UTC).replace(day=1, hour=0)),
        await billing.debit(account_id, "key_1", Usage(input_tokens=0)),
    ]


async def test_a_new_ledger_is_right(billing):
    verified = await verify(billing.database)
    assert verified.ok
    assert [check.looked_at for check in verified.checks] == [0] * 9


async def test_real_debits_are_right(billing, account_id, monkeypatch):
    await debits(billing, account_id)
    monkeypatch.setattr(verification, "BATCH_ROWS", 2)  # several batches
    verified = await verify(billing.database)
    assert differences(verified) == {}
    looked_at = {check.name: check.looked_at for check in verified.checks}
    assert looked_at["balances"] == 1
    assert looked_at["transfers"] == 5  # the grant and four debits; the fifth charged nothing
    assert looked_at["prices"] == 5
    assert looked_at["rollups"] == 5  # fresh
    assert await roll(billing.database, most_fresh=0) == 5
    verified = await verify(billing.database)
    assert differences(verified) == {}
    assert {check.name: check.looked_at for check in verified.checks}["rollups"] >= 8


async def test_what_was_given_back_or_free_is_not_computed(billing, account_id):
    for number, (outcome, estimated) in enumerate((("expired", False), ("settled", True))):
        await write_debits(billing.database, [nothing_charged(account_id, f"r{number}", outcome, estimated)])
    assert differences(await verify(billing.database)) == {}


def nothing_charged(account_id: str, request_id: str, outcome: str, estimated: bool) -> Debit:
    return Debit(
        request_id=request_id,
        admitted_at_ms=int(datetime.now(UTC).timestamp() * 1000),
        outcome="expired" if outcome == "expired" else "settled",
        account_id=account_id,
        key_id="key_1",
        endpoint="/v1/chat/completions",
        feature="llm",
        model="fast",
        provider=PRICE.provider,
        provider_model=PRICE.model,
        price_id=PRICE.id,
        estimated=estimated,
        status=200,
    )


async def test_a_balance_that_was_changed(billing, account_id, spoil):
    await debits(billing, account_id)
    await spoil("UPDATE accounts SET balance_nano = balance_nano + 1 WHERE id = $1", account_id)
    found = differences(await verify(billing.database))
    assert set(found) == {"balances", "sum"}  # the lots have more than the balance while debits are not drawn from them
    assert account_id in found["balances"].examples[0]
    assert "0.000000001" in found["sum"].examples[0]


async def test_lots_that_are_less_than_the_balance_or_not_their_transfers(billing, account_id, spoil):
    await spoil("UPDATE lots SET left_nano = left_nano - 1, amount_nano = amount_nano - 1")
    found = differences(await verify(billing.database))
    assert set(found) == {"lots"}
    assert sorted(found["lots"].examples)[0] == f"{account_id}: lots of 4.999999999 USD, and a balance of 5.00"
    assert "of 4.999999999 USD, its transfer of 5.00" in sorted(found["lots"].examples)[1]


async def test_a_transfer_to_no_account(billing, account_id, spoil):
    await spoil(
        "INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind) "
        "VALUES ('t1', 'sys:promotions', 'acc_gone', 5, 'grant')"
    )
    found = differences(await verify(billing.database))
    assert "acc_gone" in found["balances"].examples[0]
    assert found["sum"].differences == 1


async def test_an_event_without_its_transfer(billing, account_id, spoil):
    request_id = (await debits(billing, account_id))[0]
    await spoil("DELETE FROM transfers WHERE id = $1", request_id)
    found = differences(await verify(billing.database))
    assert set(found) == {"balances", "sum", "transfers"}
    assert found["transfers"].examples[0].startswith(f"request {request_id}: ")
    assert "no transfer" in found["transfers"].examples[0]


async def test_a_transfer_without_its_event(billing, account_id, spoil):
    request_id = (await debits(billing, account_id))[0]
    await spoil("DELETE FROM usage_events WHERE request_id = $1", request_id)
    found = differences(await verify(billing.database))
    assert set(found) == {"transfers", "rollups"}
    assert "no event" in found["transfers"].examples[0]
    assert found["rollups"].differences == 4  # one in each granularity


@pytest.mark.parametrize(
    "change",
    [
        "amount_nano = amount_nano + 1",
        "debit_account = 'acc_other'",
        "credit_account = 'sys:write_off'",
        "request_id = 'another'",
        "request_id = NULL",
    ],
)
async def test_a_transfer_that_is_not_its_events(billing, account_id, spoil, change):
    request_id = (await debits(billing, account_id))[0]
    await spoil(f"UPDATE transfers SET {change} WHERE id = $1", request_id)  # noqa: S608
    found = differences(await verify(billing.database))
    assert found["transfers"].differences == 1
    assert request_id in found["transfers"].examples[0]


async def test_a_request_that_is_there_twice(billing, account_id, spoil):
    request_id = (await debits(billing, account_id))[0]
    await spoil(TWICE, request_id)
    found = differences(await verify(billing.database))
    assert "2 events" in found["transfers"].examples[0]


@pytest.mark.parametrize("column", ["cost_nano", "charged_nano", "markup_scaled", "input_tokens", "output_tokens"])
async def test_an_amount_that_does_not_follow(billing, account_id, spoil, column):
    request_id = (await debits(billing, account_id))[0]
    by = 10**12 if column == "markup_scaled" else 1000
    await spoil(f"UPDATE usage_events SET {column} = {column} + {by} WHERE request_id = $1", request_id)  # noqa: S608
    found = differences(await verify(billing.database))
    assert found["prices"].examples[0].startswith(f"request {request_id}: has cost ")


@pytest.mark.parametrize("change", ["cached_input_tokens = 5000", "counts = '{\"unheard_of\": 1}'"])
async def test_counts_that_can_not_be(billing, account_id, spoil, change):
    request_id = (await debits(billing, account_id))[0]
    await spoil(f"UPDATE usage_events SET {change} WHERE request_id = $1", request_id)  # noqa: S608
    assert differences(await verify(billing.database))["prices"].examples == (
        f"request {request_id}: its counts can't be",
    )


async def test_a_price_row_that_is_missing(billing, account_id, spoil):
    await debits(billing, account_id)
    await spoil("DELETE FROM prices")
    found = differences(await verify(billing.database))
    assert found["prices"].differences == 5
    assert PRICE.id in found["prices"].examples[0]


@pytest.mark.parametrize("stored", ["replace(said, '0.15', '0.15') || ' '", "'{}'", "'not json'"])
async def test_a_price_row_that_was_rewritten(billing, account_id, spoil, stored):
    await debits(billing, account_id)
    await spoil(f"UPDATE prices SET said = {stored}")  # noqa: S608
    found = differences(await verify(billing.database))
    if stored.startswith("replace"):
        assert found == {}  # white space says nothing else
    else:
        assert "its content is no price row" in found["prices"].examples[0]
        assert found["prices"].differences == 6


async def test_a_cheaper_price_row_under_the_same_id(billing, account_id, spoil):
    await debits(billing, account_id)
    await spoil("UPDATE prices SET said = replace(said, '150000000', '140000000')")
    found = differences(await verify(billing.database))
    assert PRICE.id in found["prices"].examples[0]
    assert "it has the content of" in found["prices"].examples[0]


async def partly_rolled(billing: Billing, account_id: str) -> list[str]:
    """Requests as `debits` makes them, the first four in the rollups and two fresh."""
    made = await debits(billing, account_id)
    assert await roll(billing.database, 4, most_fresh=0) == 4
    return [*made, await billing.debit(account_id, "key_2", USAGE, model="slow")]


@pytest.mark.parametrize("change", ["UPDATE usage_sums SET requests = requests + 1", "DELETE FROM usage_sums"])
async def test_a_rollup_that_is_no_sum(billing, account_id, change):
    await partly_rolled(billing, account_id)
    assert differences(await verify(billing.database)) == {}
    await billing.database.execute(f"{change} WHERE granularity = 2 AND tag = 0 AND dimensions = {SLOW}")
    found = differences(await verify(billing.database))
    assert set(found) == {"rollups", "of all"}
    assert found["rollups"].differences == 1
    assert "day " in found["rollups"].examples[0]
    assert account_id in found["rollups"].examples[0]


async def test_sums_of_all_accounts_are_those_of_each(billing, account_id):
    await partly_rolled(billing, account_id)
    await roll(billing.database, most_fresh=0)
    of_accounts = "SELECT count(*) FROM usage_by_account WHERE granularity = 2"
    spoilt = await billing.database.value(f"SELECT count(*) + ({of_accounts}) FROM usage_by_model")  # noqa: S608
    await billing.database.execute("UPDATE usage_by_model SET charged_nano = charged_nano + 1")
    await billing.database.execute("DELETE FROM usage_by_account WHERE granularity = 2")
    found = differences(await verify(billing.database))
    assert set(found) == {"of all"}
    assert found["of all"].differences == spoilt > 2
    assert any(account_id in example for example in found["of all"].examples)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE usage_fresh SET input_tokens = input_tokens + 1", 8),
        ("UPDATE usage_fresh SET key_id = 'key_other'", 16),
        ("DELETE FROM usage_fresh", 8),
        ("INSERT INTO usage_fresh SELECT * FROM usage_fresh", 8),
    ],
)
async def test_what_is_fresh_is_compared(billing, account_id, change, found):
    await partly_rolled(billing, account_id)
    await billing.database.execute(f"{change} WHERE model = 'slow'")
    assert differences(await verify(billing.database))["rollups"].differences == found


async def test_a_rollup_of_nothing(billing, account_id):
    await partly_rolled(billing, account_id)
    await billing.database.execute(
        f"UPDATE usage_sums SET dimensions = 0 WHERE granularity = 3 AND tag = 0 AND dimensions = {SLOW}"  # noqa: S608
    )
    assert differences(await verify(billing.database))["rollups"].differences == 2


async def test_differences_are_counted_and_the_first_named(billing, account_id, spoil):
    for _ in range(EXAMPLES_LIMIT + 5):
        await billing.debit(account_id, "key_1", USAGE)
    await spoil("UPDATE usage_events SET cost_nano = cost_nano + 1")
    prices = differences(await verify(billing.database))["prices"]
    assert prices.differences == EXAMPLES_LIMIT + 5
    assert len(prices.examples) == EXAMPLES_LIMIT


async def test_it_reads_one_snapshot(billing, account_id, database_url, monkeypatch):
    """Debits written while it reads are not there for it: no check sees one without the other."""
    await debits(billing, account_id)
    check_prices = verification._check_prices

    async def slowly(connection, events):
        await billing.debit(account_id, "key_1", USAGE)
        return await check_prices(connection, events)

    monkeypatch.setattr(verification, "_check_prices", slowly)
    reader = Database(database_url, size=1)
    try:
        verified = await verify(reader)
    finally:
        await reader.close()
    assert verified.ok
