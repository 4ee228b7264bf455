"""The batch that writes debits: once for a request whoever comes and however often, corrections numbered in order, one
bad debit never in the way of the others."""

import asyncio
import random
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import pytest
from ulid import ULID

from billing.accounts.accounts import Account
from billing.database.connection import Database, DatabaseRefused
from billing.ledger.debits import OWN_COLUMNS, Debit, decode_debit, encode_debit
from billing.ledger.writer import (
    WRITE_DEBITS,
    WRITE_FREE_DEBITS,
    WRITE_NEW_DEBITS,
    Stored,
    write_claimed,
    write_debits,
)
from billing.money import MAX_NANO
from tests.billing.support import Billing

NOW_MS = int(datetime.now(UTC).timestamp()) * 1000
EPOCH = 7
EVENTS = "SELECT request_id, charged_nano, outcome, epoch, dseq, xseq FROM usage_events ORDER BY request_id"


@pytest.fixture
async def account(billing: Billing) -> Account:
    """An account that Redis was loaded with in epoch 7."""
    made = await billing.accounts.create("Acme")
    await billing.grants.grant(made.id, 10**9, "first")
    await billing.database.execute("UPDATE accounts SET hyd_epoch = $2 WHERE id = $1", made.id, EPOCH)
    return made


def debit(account: Account, request_id: str | None = None, **changes: object) -> Debit:
    plain = Debit(
        request_id=request_id or str(ULID()),
        admitted_at_ms=NOW_MS,
        outcome="settled",
        account_id=account.id,
        key_id="key_1",
        endpoint="/v1/chat/completions",
        feature="llm",
        model="demo",
        provider="local",
        provider_model="demo",
        input_tokens=10,
        output_tokens=5,
        counts='{"images":2}',
        cost_nano=400,
        charged_nano=500,
        price_id="price_test",
        status=200,
        stream=True,
        latency_ms=5,
        ttft_ms=2,
        tags='{"team":"blue"}',
        end_user="somebody",
    )
    return msgspec.structs.replace(plain, **changes)


def placed(account: Account, dseq: int, **changes: object) -> Debit:
    """A debit that Redis has counted in the epoch that the account was loaded for."""
    return debit(account, epoch=EPOCH, dseq=dseq, **changes)


async def assert_consistent(database: Database) -> None:
    """I1: every balance is the sum of its transfers, every charged event has one transfer, what is rolled up
    and what is fresh are the events."""
    rows = await database.rows(
        "SELECT id, balance_nano, coalesce((SELECT sum(CASE WHEN credit_account = a.id THEN amount_nano "
        "ELSE -amount_nano END) FROM transfers t WHERE a.id IN (t.credit_account, t.debit_account)), 0) AS moved "
        "FROM accounts a"
    )
    assert all(row["balance_nano"] == row["moved"] for row in rows)
    events = await database.rows("SELECT request_id, charged_nano FROM usage_events WHERE charged_nano > 0")
    moved = await database.rows("SELECT id AS request_id, amount_nano FROM transfers WHERE kind = 'usage'")
    assert sorted(map(tuple, events)) == sorted(map(tuple, moved))
    fresh = await database.value("SELECT coalesce(sum(charged_nano), 0) FROM usage_fresh")
    for granularity in range(4):
        rolled = await database.value("SELECT sum(charged_nano) FROM usage_rollups WHERE granularity = $1", granularity)
        assert (rolled or 0) + fresh == sum(row["charged_nano"] for row in events)
    corrected = await database.rows("SELECT account_id, max(xseq) AS last FROM corrections GROUP BY account_id")
    for row in corrected:
        assert row["last"] == await database.value("SELECT xseq FROM accounts WHERE id = $1", row["account_id"])
    unlike = await database.value(
        "SELECT count(*) FROM usage_events u FULL JOIN (SELECT * FROM corrections WHERE request_id IS NOT NULL) c "
        "ON c.request_id = u.request_id AND c.xseq = u.xseq AND c.delta_nano = -u.charged_nano "
        "WHERE (u.xseq IS NOT NULL) <> (c.xseq IS NOT NULL)"
    )
    assert unlike == 0


async def balance(database: Database, account: Account) -> int:
    found: int = await database.value("SELECT balance_nano FROM accounts WHERE id = $1", account.id)
    return found


def test_a_debit_survives_the_journal():
    made = debit(
        Account("acc", "", "free", "active", None, 0, (), None, datetime.now(UTC), 0, 1), charged_nano=MAX_NANO
    )
    assert decode_debit(encode_debit(made)) == made


async def test_a_debit_is_written_once_however_often_it_comes(billing, account):
    made = placed(account, 1)
    first = await write_debits(billing.database, [made])
    assert first == {made.request_id: Stored("settled", None, True)}
    for _ in range(2):
        again = await write_debits(billing.database, [made])
        assert again == {made.request_id: Stored("settled", None, False)}
    assert await balance(billing.database, account) == 10**9 - 500
    (event,) = await billing.database.rows("SELECT * FROM usage_events")
    assert (event["admitted_at"].timestamp() * 1000, event["counts"], event["tags"]) == (
        NOW_MS,
        {"images": 2},
        {"team": "blue"},
    )
    assert (event["epoch"], event["dseq"], event["xseq"]) == (EPOCH, 1, None)
    await assert_consistent(billing.database)


FULL: Mapping[str, object] = {
    "outcome": "expired",
    "user_id": "usr_1",
    "key_id": "key_2",
    "client_request_id": "c",
    "upstream_request_id": "u",
    "endpoint": "/e",
    "feature": "f",
    "model": "m",
    "provider": "p",
    "provider_model": "pm",
    **{name: place for place, name in enumerate(OWN_COLUMNS, start=11)},
    "cost_nano": 21,
    "charged_nano": 22,
    "price_id": "price",
    "multiplier": "priority",
    "markup_scaled": 23,
    "estimated": True,
    "status": 499,
    "stream": True,
    "latency_ms": 24,
    "ttft_ms": 25,
    "end_user": "e",
    "note": "n",
    "epoch": 5,
    "dseq": 26,
    "session": "s",
    "agent": "a",
    "parent_agent": "pa",
    "tool": "t",
    "tool_version": "tv",
}
JSON: Mapping[str, object] = {"counts": {"images": 2}, "tags": {"team": "blue"}, "by_model": [{"model": "x"}]}


@pytest.mark.parametrize("statement", ["new", "unless known", "free", "claimed"])
async def test_each_field_of_a_debit_has_its_column(billing, account, statement):
    texts = {name: msgspec.json.encode(value).decode() for name, value in JSON.items()}
    made = debit(account, **FULL, **texts)
    assert {*FULL, *JSON, "request_id", "admitted_at_ms", "account_id", "layout"} == set(Debit.__struct_fields__)
    batch = msgspec.json.encode([made]).decode()
    if statement == "claimed":
        claims = [(account.id, event, "ab", id_, "", None) for event, id_ in (("1", made.request_id), ("2", "other"))]
        assert await write_claimed(billing.database, [made, debit(account, "r2")], claims, 1.0) == {made.request_id}
    else:
        query = {"new": WRITE_NEW_DEBITS, "unless known": WRITE_DEBITS, "free": WRITE_FREE_DEBITS}[statement]
        (row,) = await billing.database.rows(query, batch, "1s")
        assert tuple(row) == (made.request_id, "expired", 2)
    (event,) = await billing.database.rows("SELECT * FROM usage_events")
    assert {name: event[name] for name in (*FULL, *JSON)} == {**FULL, **JSON}
    assert (event["request_id"], event["account_id"], event["xseq"]) == (made.request_id, account.id, 2)
    assert event["admitted_at"].timestamp() * 1000 == NOW_MS
    fresh = dict((await billing.database.rows("SELECT * FROM usage_fresh"))[0])
    assert fresh == {name: event[name] for name in fresh}
    (correction,) = await billing.database.rows("SELECT * FROM corrections WHERE request_id IS NOT NULL")
    assert [correction[name] for name in ("xseq", "delta_nano", "key_id", "model")] == [2, -22, "key_2", "m"]
    await assert_consistent(billing.database)


async def test_a_debit_that_comes_twice_in_one_batch_is_one(billing, account):
    once, twice = placed(account, 1), placed(account, 2)
    direct = debit(account)
    stored = await write_debits(billing.database, [once, twice, twice, direct, direct, once])
    assert sorted(stored) == sorted((once.request_id, twice.request_id, direct.request_id))
    assert await balance(billing.database, account) == 10**9 - 1500
    assert await billing.database.value("SELECT count(*) FROM corrections WHERE request_id IS NOT NULL") == 1
    await assert_consistent(billing.database)


async def test_corrections_are_numbered_in_the_order_of_the_batch(billing, account):
    counted, direct, older = placed(account, 1), debit(account), debit(account, epoch=EPOCH - 1, dseq=9)
    stored = await write_debits(billing.database, [direct, counted, older])
    assert [stored[made.request_id].xseq for made in (direct, counted, older)] == [2, None, 3]
    await billing.grants.grant(account.id, 7, "second")
    last = debit(account, outcome="expired", charged_nano=0, input_tokens=0, output_tokens=0)
    assert (await write_debits(billing.database, [last]))[last.request_id].xseq == 5
    rows = await billing.database.rows("SELECT xseq, delta_nano, request_id, requests FROM corrections ORDER BY xseq")
    assert [tuple(row) for row in rows] == [
        (1, 10**9, None, 0),
        (2, -500, direct.request_id, 1),
        (3, -500, older.request_id, 1),
        (4, 7, None, 0),
        (5, 0, last.request_id, 0),
    ]
    await assert_consistent(billing.database)


async def test_each_account_of_a_batch_numbers_its_own(billing, account):
    other = await billing.accounts.create("Other", credit_limit_nano=10**6)
    made = [debit(account), placed(other, 1), debit(other), debit(account), placed(account, 1)]
    stored = await write_debits(billing.database, made)
    assert [stored[one.request_id].xseq for one in made] == [2, 1, 2, 3, None]
    assert await balance(billing.database, other) == -1000
    await assert_consistent(billing.database)


async def test_an_account_that_was_never_loaded_takes_every_debit_as_a_correction(billing):
    made = await billing.accounts.create("New")
    one = placed(made, 1)
    assert (await write_debits(billing.database, [one]))[one.request_id].xseq == 1


async def test_whoever_is_first_has_decided(billing, account):
    expired = debit(account, outcome="expired", charged_nano=0, cost_nano=0, input_tokens=0, output_tokens=0)
    late = msgspec.structs.replace(placed(account, 1), request_id=expired.request_id)
    await write_debits(billing.database, [expired])
    stored = await write_debits(billing.database, [late])
    assert stored == {expired.request_id: Stored("expired", 2, False)}
    assert await balance(billing.database, account) == 10**9
    assert await billing.database.value("SELECT count(*) FROM usage_fresh") == 0
    await assert_consistent(billing.database)


async def test_a_debit_of_the_ledgers_own_way_learns_its_place_once(billing, account):
    direct = debit(account)
    await write_debits(billing.database, [direct])
    for dseq in (4, 5):
        known = await write_debits(billing.database, [msgspec.structs.replace(direct, epoch=EPOCH, dseq=dseq)])
        assert known == {direct.request_id: Stored("settled", 2, False)}
    rows = await billing.database.rows(EVENTS)
    assert [tuple(row) for row in rows] == [(direct.request_id, 500, "settled", EPOCH, 4, 2)]
    assert await balance(billing.database, account) == 10**9 - 500


async def test_gateways_that_write_the_same_at_once_agree(billing, database_url):
    """Each debit by three writers: from the journal, from memory, by a direct ledger write; grants in between."""
    accounts = [await billing.accounts.create(f"Account {number}", credit_limit_nano=10**9) for number in range(3)]
    for made in accounts:
        await billing.database.execute("UPDATE accounts SET hyd_epoch = $2 WHERE id = $1", made.id, EPOCH)
    chosen = random.Random(4)  # noqa: S311
    debits = [placed(accounts[number % 3], number // 3 + 1) for number in range(120)]
    direct = [msgspec.structs.replace(one, epoch=None, dseq=None) for one in debits[::4]]
    writers = [Database(database_url) for _ in range(4)]

    async def write(database, given):
        mixed = list(given)
        chosen.shuffle(mixed)
        return [await write_debits(database, mixed[start : start + 7]) for start in range(0, len(mixed), 7)]

    async def grant():
        for number in range(30):
            await billing.grants.grant(accounts[number % 3].id, 1, f"grant {number}")

    try:
        answers = await asyncio.gather(
            *(write(one, debits if one is not writers[3] else direct) for one in writers), grant()
        )
    finally:
        for one in writers:
            await one.close()
    outcomes = [part for answer in answers[:4] if answer is not None for part in answer]
    fresh = [request_id for part in outcomes for request_id, stored in part.items() if stored.fresh]
    assert sorted(fresh) == sorted(one.request_id for one in debits)
    decided = {(request_id, stored.xseq) for part in outcomes for request_id, stored in part.items()}
    assert len(decided) == len(debits)
    for made in accounts:
        assert await balance(billing.database, made) == 10 - 40 * 500
        numbers = await billing.database.rows(
            "SELECT xseq FROM corrections WHERE account_id = $1 ORDER BY xseq", made.id
        )
        assert len({row["xseq"] for row in numbers}) == len(numbers)
        assert await billing.database.value("SELECT xseq FROM accounts WHERE id = $1", made.id) == numbers[-1]["xseq"]
    await assert_consistent(billing.database)


async def test_loading_and_writing_at_once_class_every_debit_by_one_epoch(billing, account):
    """A debit is in the balance that a load reads, or it is a correction that comes after it: never both or neither."""
    await billing.database.execute("INSERT INTO partitions (p, epoch, identity) VALUES (0, $1, 'x')", EPOCH + 1)
    loaded = []

    async def load():
        await asyncio.sleep(0.005)
        row = await billing.database.row(
            "UPDATE accounts SET hyd_epoch = $2 WHERE id = $1 RETURNING balance_nano, xseq", account.id, EPOCH + 1
        )
        loaded.append((row["balance_nano"], row["xseq"]))

    async def write(number):
        await write_debits(billing.database, [placed(account, number)])

    await asyncio.gather(*(write(number) for number in range(1, 21)), load(), *(write(n) for n in range(21, 41)))
    ((balance_then, xseq_then),) = loaded
    later = await billing.database.value("SELECT sum(delta_nano) FROM corrections WHERE xseq > $1", xseq_then)
    assert balance_then + (later or 0) == await balance(billing.database, account) == 10**9 - 40 * 500
    assert xseq_then == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"charged_nano": -1},
        {"charged_nano": MAX_NANO + 1},
        {"admitted_at_ms": 2**62},
        {"tags": "{"},
        {"model": "nul\0"},
        {"account_id": "acc_unknown"},
        {"charged_nano": MAX_NANO},
        {"status": 2**40},
    ],
)
async def test_a_debit_that_is_refused_is_set_aside_alone(billing, account, changes):
    """By a constraint, a type, a time that is none, a missing account, the balance's bound, the driver."""
    await billing.database.execute("UPDATE accounts SET credit_limit_nano = 0 WHERE id = $1", account.id)
    if changes == {"charged_nano": MAX_NANO}:
        await write_debits(billing.database, [debit(account, charged_nano=10**10)])
    before = await balance(billing.database, account)
    good = [placed(account, number) for number in range(1, 8)]
    bad = placed(account, 8, **changes)
    stored = await write_debits(billing.database, [*good[:3], bad, *good[3:]])
    assert sorted(stored) == sorted(one.request_id for one in good)
    assert await balance(billing.database, account) == before - 7 * 500
    (aside,) = await billing.database.rows("SELECT * FROM debits_set_aside")
    assert (aside["request_id"], decode_debit(aside["debit"])) == (bad.request_id, bad)
    assert await write_debits(billing.database, [bad]) == {}
    assert await billing.database.value("SELECT count(*) FROM debits_set_aside") == 1
    await assert_consistent(billing.database)


async def test_what_was_written_cannot_be_changed(billing, account):
    await write_debits(billing.database, [placed(account, 1), debit(account)])
    for query in (
        "UPDATE transfers SET amount_nano = 1",
        "DELETE FROM transfers",
        "TRUNCATE transfers",
        "UPDATE usage_events SET charged_nano = 0",
        "UPDATE usage_events SET dseq = 9, charged_nano = 0 WHERE dseq IS NULL",
        "UPDATE usage_events SET dseq = 9 WHERE dseq = 1",
        "UPDATE usage_events SET xseq = NULL WHERE dseq IS NULL",
        "DELETE FROM usage_events",
        "TRUNCATE usage_events",
        "TRUNCATE prices",
    ):
        with pytest.raises(DatabaseRefused, match="append-only"):
            await billing.database.execute(query)
    (partition,) = await billing.database.rows(
        "SELECT tableoid::regclass::text AS name FROM usage_events GROUP BY tableoid"
    )
    for query in ("UPDATE {} SET charged_nano = 0", "DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(DatabaseRefused, match="append-only"):
            await billing.database.execute(query.format(partition["name"]))
    await assert_consistent(billing.database)
