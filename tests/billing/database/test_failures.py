"""A debit that fails temporarily is written later and never set aside; one that fails for its content is set aside
alone."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from billing.accounts.accounts import Account
from billing.database.connection import Database, DatabaseHindered, DatabaseLocked, DatabaseRefused, DatabaseUnavailable
from billing.database.urls import split_url
from billing.ledger import debits as debits_module
from billing.ledger import writer
from billing.ledger.debits import Debit, decode_debit
from billing.ledger.writer import write_batch, write_debits
from tests.billing.ledger.test_debits import account, assert_consistent, balance, debit, placed

pytestmark = pytest.mark.slow

__all__ = ["account"]

FAILING = """
CREATE FUNCTION fail_in_a_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {condition} THEN RAISE EXCEPTION 'as a test asks' USING ERRCODE = '{code}'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fail_in_a_test BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION fail_in_a_test();
"""
MENDED = "DROP TRIGGER fail_in_a_test ON usage_events; DROP FUNCTION fail_in_a_test()"
ASIDE = "SELECT count(*) FROM debits_set_aside"
# An attempt as if all were new, and one that leaves out what is known.
MOST_STATEMENTS = 2


class Counted(Database):
    """A database that counts its statements."""

    statements = 0

    async def rows(self, query: str, *arguments: object) -> list[Any]:
        self.statements += 1
        return await super().rows(query, *arguments)


@pytest.fixture
async def counted(database_url: str) -> AsyncIterator[Counted]:
    database = Counted(database_url)
    yield database
    await database.close()


@pytest.mark.parametrize(
    "code",
    [
        "55P03",
        "26000",
        "42P05",
        "42501",
        "XX000",
        "XX001",
        "40001",
        "40P01",
        "57014",
        "53100",
        "54000",
        "0A000",
        "42703",
    ],
)
async def test_a_failure_that_is_not_the_debits_sets_nothing_aside(billing, account, counted, code):
    batch = [placed(account, number) for number in range(1, 65)]
    await billing.database.execute(FAILING.format(condition="true", code=code))
    for _ in range(3):
        counted.statements = 0
        with pytest.raises(DatabaseUnavailable):
            await write_debits(counted, batch)
        assert counted.statements <= MOST_STATEMENTS, "a batch stays whole"
    await billing.database.execute(MENDED)
    assert len(await write_debits(counted, batch)) == len(batch)
    assert await billing.database.value(ASIDE) == 0
    assert await balance(billing.database, account) == 10**9 - 500 * len(batch)
    await assert_consistent(billing.database)


@pytest.mark.parametrize("code", ["22000", "22003", "22P02", "22021", "23502", "23505", "23514"])
async def test_a_failure_that_is_a_debits_own_sets_that_one_aside(billing, account, counted, code):
    bad = placed(account, 64, model="bad")
    await billing.database.execute(FAILING.format(condition="NEW.model = 'bad'", code=code))
    stored = await write_debits(counted, [*(placed(account, number) for number in range(1, 64)), bad])
    assert len(stored) == 63
    rows = await billing.database.rows("SELECT request_id, kind FROM debits_set_aside")
    assert [tuple(row) for row in rows] == [(bad.request_id, "debit")]
    await assert_consistent(billing.database)


async def test_a_statement_that_is_cancelled_is_one_that_waits_for_a_lock(billing):
    """Postgres tells the one as the other where a second lock is waited for: one of some 5,000 timeouts."""
    cancel = "SELECT bool_or(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(61)'"
    waiting = asyncio.ensure_future(billing.database.execute("SELECT pg_sleep(61)"))
    while not waiting.done():
        await billing.database.value(cancel)
    with pytest.raises(DatabaseLocked, match="or an operator: QueryCanceled"):
        await waiting


async def test_a_lock_that_is_not_given_in_time(billing, account, database_url):
    mark = "&" if "?" in database_url else "?"
    impatient = Database(f"{database_url}{mark}lock_timeout=20")
    try:
        async with billing.database.transaction() as other:
            await other.execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DatabaseHindered, match="LockNotAvailable"):
                await write_debits(impatient, [placed(account, 1)])
        assert len(await write_debits(impatient, [placed(account, 1)])) == 1
        assert await billing.database.value(ASIDE) == 0
    finally:
        await impatient.close()


async def test_a_row_that_is_locked_keeps_its_own_debits_waiting_alone(billing, account, counted):
    """Others of the batch are written, what the ledger knows already is answered, and no writer waits with a row of
    another account in its hands."""
    free = await billing.accounts.create("Free")
    hers = [placed(account, number) for number in range(1, 4)]
    his = [debit(free) for _ in range(3)]
    await write_debits(billing.database, hers[:1])
    batch = [hers[0], his[0], hers[1], his[1], hers[2], his[2]]
    async with billing.database.transaction() as other:
        await other.execute("SELECT FROM accounts WHERE id = $1 FOR UPDATE", account.id)
        written = await write_batch(counted, batch)
        assert list(written.left) == hers[1:]
        assert written.locked == {account.id}
        assert {*written.stored} == {each.request_id for each in (hers[0], *his)}
        assert [written.stored[each.request_id].fresh for each in (hers[0], *his)] == [False, True, True, True]
    assert (await write_batch(counted, batch)).left == ()
    assert await billing.database.value(ASIDE) == 0
    assert await balance(billing.database, account) == 10**9 - 1500
    await assert_consistent(billing.database)


async def test_a_debit_that_is_refused_is_found_beside_a_row_that_is_locked(billing, account, counted):
    free = await billing.accounts.create("Free")
    await billing.database.execute(FAILING.format(condition="NEW.model = 'bad'", code="22003"))
    good, bad, hers = debit(free), debit(free, model="bad"), placed(account, 1)
    async with billing.database.transaction() as other:
        await other.execute("SELECT FROM accounts WHERE id = $1 FOR UPDATE", account.id)
        written = await write_batch(counted, [hers, good, bad])
        assert (list(written.left), {*written.stored}) == ([hers], {good.request_id})
    rows = await billing.database.rows("SELECT request_id FROM debits_set_aside")
    assert [row["request_id"] for row in rows] == [bad.request_id]
    assert [each.fresh for each in (await write_batch(counted, [hers])).stored.values()] == [True]
    await assert_consistent(billing.database)


async def test_a_role_that_may_not_write_yet(billing, account, database_url):
    role, mark = f"r{secrets.token_hex(6)}", "&" if "?" in database_url else "?"
    await billing.database.execute(f"CREATE ROLE {role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    limited = Database(f"{database_url}{mark}role={role}")
    one = placed(account, 1)
    try:
        with pytest.raises(DatabaseHindered, match="InsufficientPrivilege"):
            await write_debits(limited, [one])
        assert await billing.database.value(ASIDE) == 0
        await billing.database.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        assert (await write_debits(limited, [one]))[one.request_id].fresh
    finally:
        await limited.close()
        await billing.database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_statement_that_the_server_has_forgotten(billing, account, database_url):
    """As behind a pooler that gives a session to another client: it is prepared anew on another connection."""
    database = Database(database_url, size=1)
    try:
        await write_debits(database, [placed(account, 1)])
        await database.execute("DEALLOCATE ALL")
        one = placed(account, 2)
        with pytest.raises(DatabaseHindered, match="statement_cache_size=0"):
            await write_debits(database, [one])
        assert (await write_debits(database, [one]))[one.request_id].fresh
        assert await billing.database.value(ASIDE) == 0
    finally:
        await database.close()


@pytest.mark.parametrize("admitted_at_ms", [0, 978307200000, 4102444800000])
async def test_a_month_without_a_partition_gets_one(billing, account, admitted_at_ms):
    """Long ago (a clock that stood at 1970), and far ahead."""
    batch = [placed(account, 1), placed(account, 2, admitted_at_ms=admitted_at_ms), placed(account, 3)]
    assert len(await write_debits(billing.database, batch)) == 3
    assert await billing.database.value(ASIDE) == 0
    await assert_consistent(billing.database)


@pytest.mark.parametrize(
    "changes",
    [{"end_user": "\ud800"}, {"model": "\ud800", "charged_nano": 2**70}, {"account_id": "nul\0"}, {"status": 2**70}],
)
async def test_a_debit_that_cannot_be_encoded_is_set_aside_alone(billing, account, changes):
    bad = placed(account, 4, **changes)
    stored = await write_debits(billing.database, [placed(account, 1), bad, placed(account, 2), placed(account, 3)])
    assert len(stored) == 3
    (row,) = await billing.database.rows("SELECT * FROM debits_set_aside")
    assert (row["request_id"], row["kind"]) == (bad.request_id, "debit")
    assert await balance(billing.database, account) == 10**9 - 1500


async def test_a_month_that_cannot_be_made_sets_aside_what_falls_into_it(billing, account, monkeypatch):
    monkeypatch.setattr(writer, "CREATE_MONTHS", "SELECT count($1::bigint[])")
    assert len(await write_debits(billing.database, [placed(account, 1), placed(account, 2, admitted_at_ms=0)])) == 1
    assert await billing.database.value(ASIDE) == 1


def test_the_url_says_how_many_statements_are_kept():
    assert split_url("postgresql:///name?host=/run") == ("postgresql:///name?host=/run", None)
    assert split_url("postgresql://h/name?statement_cache_size=0") == ("postgresql://h/name", 0)
    assert split_url("postgresql://h/n?a=b&statement_cache_size=20&c=d") == ("postgresql://h/n?a=b&c=d", 20)
    for given in ("-1", "x", "", "99999999"):
        with pytest.raises(ValueError, match="statement_cache_size"):
            split_url(f"postgresql://h/n?statement_cache_size={given}")


async def test_what_cannot_be_encoded_for_the_driver_is_refused(billing):
    with pytest.raises(DatabaseRefused):
        await billing.database.value("SELECT $1::bigint", 2**70)


def test_a_debit_of_the_journal_can_be_read_by_the_next_release_and_the_last():
    """New fields are appended: a missing one gets its default, an unknown one is ignored."""
    made = debit(Account("acc", "", "free", "active", None, 0, (), None, datetime.now(UTC), 0, 1), epoch=3, dseq=4)
    fields = msgspec.msgpack.decode(debits_module.encode_debit(made))
    pack = msgspec.msgpack.encode
    assert decode_debit(pack(fields[:34])) == made, "what is missing has its default"
    assert decode_debit(pack([*fields, "something", 7])) == made
    for newer in (pack([*fields[:34], debits_module.LAYOUT + 1]), pack([*([None] * 34), 9, "other"])):
        with pytest.raises(debits_module.NewerLayout):
            decode_debit(newer)
    for bad in (b"", b"text", b"\xff", pack(fields)[:50], pack({"a": 1}), pack([1, 2, 3]), pack([*fields[:34], -1.5])):
        with pytest.raises(debits_module.Unreadable):
            decode_debit(bad)


def test_the_order_of_a_debits_fields_is_the_one_that_is_stored():
    """Payloads outlive a release: fields are appended, never moved or removed."""
    assert Debit.__struct_fields__[:36] == (
        "request_id",
        "admitted_at_ms",
        "outcome",
        "account_id",
        "user_id",
        "key_id",
        "client_request_id",
        "upstream_request_id",
        "endpoint",
        "feature",
        "model",
        "provider",
        "provider_model",
        "input_tokens",
        "cached_input_tokens",
        "cache_write_tokens",
        "output_tokens",
        "reasoning_tokens",
        "counts",
        "cost_nano",
        "charged_nano",
        "price_id",
        "multiplier",
        "markup_scaled",
        "estimated",
        "status",
        "stream",
        "latency_ms",
        "ttft_ms",
        "tags",
        "end_user",
        "note",
        "epoch",
        "dseq",
        "layout",
        "by_model",
    )
