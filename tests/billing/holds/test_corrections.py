"""Corrections: Redis is told of every change that it has not made itself, in order, once, however many tell it."""

import asyncio
from dataclasses import replace

import pytest
from ulid import ULID

from billing.database.connection import DatabaseUnavailable
from billing.holds import cache
from billing.holds.engine import EngineSettings
from billing.holds.epochs import Partition
from billing.holds.model import SettlementLost
from billing.holds.redis.connection import RedisAway
from billing.ledger.debits import Debit
from billing.ledger.writer import write_debits
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    PATIENT,
    World,
    ask,
    assert_agreed,
    debit,
    debits,
    entries,
    eventually,
    hold_one,
    ledger_balance,
    partition_of,
    settle,
    spend,
    wire_of,
)

TOTAL_TOKENS = Quota(Window.total, Metric.tokens, 10**9)
MONTH_COST = Quota(Window.month, Metric.cost, 10**12, "de*")


async def away(partition: Partition, account_id: str) -> bool:
    raise RedisAway("away")


async def load(world: World, principal: Principal) -> None:
    """Into Redis, and nothing held."""
    await world.engine.holds.void(await hold_one(world, principal))


async def write(world: World, principal: Principal, **changes: object) -> Debit:
    """A debit by a direct ledger write."""
    one = debit(str(ULID()), principal, admitted_at_ms=partition_of(world).now_ms(), **changes)
    await write_debits(world.database, [one])
    return one


async def test_many_corrections_are_told_once_by_many_tellers(make_world):
    """More than one call takes, grants and debits mixed, while requests settle."""
    worlds = [await make_world() for _ in range(3)]
    principal = await worlds[0].customer(10**9, key_quotas=(TOTAL_TOKENS,), quotas=(MONTH_COST,))
    account_id = principal.account_id
    await load(worlds[0], principal)
    quiet = worlds[0].engine.corrections.sync
    worlds[0].engine.corrections.sync = away
    for number in range(60):
        await worlds[0].grants.grant(account_id, number + 1, f"grant {number}", None)
    for _ in range(90):
        await write(worlds[0], principal)
    worlds[0].engine.corrections.sync = quiet
    told = [world.engine.corrections.sync(partition_of(world), account_id) for world in worlds for _ in range(4)]
    await asyncio.gather(*told, *(spend(world, principal) for world in worlds for _ in range(5)))
    state = await worlds[0].account_state(account_id)
    assert state.xseq == 1 + 60 + 90
    assert state.balance_nano == 10**9 + 60 * 61 // 2 - 105 * 500
    (counter,) = state.counters
    assert counter.taken == 105 * 500
    (counter,) = (await worlds[0].key_state(principal)).counters
    assert counter.taken == 105 * 15
    await assert_agreed(worlds[0], account_id)
    assert await worlds[0].database.value("SELECT pushed_xseq FROM accounts") == 151


async def test_what_could_not_be_told_is_told_by_the_relay(world, principal):
    await load(world, principal)
    quiet, world.engine.change_notifier._corrections.sync = world.engine.corrections.sync, away
    await world.grants.grant(principal.account_id, 7, "while Redis is away", None)
    assert (await world.account_state(principal.account_id)).balance_nano == 10**9
    world.engine.change_notifier._corrections.sync = quiet

    async def told():
        return (await world.account_state(principal.account_id)).balance_nano == 10**9 + 7

    await eventually(told)


async def test_what_fails_each_time_keeps_no_other_change_waiting(world, monkeypatch):
    await world.engine.loops.stop("relay")
    monkeypatch.setattr(cache, "RELAY_ROWS", 2)
    principals = [await world.customer(10**9) for _ in range(4)]
    accounts = sorted(each.account_id for each in principals)
    for principal in principals:
        await load(world, principal)
    unreadable = [{"window": "of a newer release", "metric": "cost", "limit": "1"}]
    await world.database.execute("UPDATE accounts SET quotas = $2 WHERE id = ANY ($1)", accounts[:2], unreadable)
    for account_id in accounts:
        await world.grants.grant(account_id, 7, "more", None)
    await world.database.execute("UPDATE accounts SET version = version + 1, pushed_xseq = 0")
    for _ in range(3):
        await world.engine.change_notifier.relay()
    left = "SELECT id FROM accounts WHERE {} ORDER BY id"
    for untold in ("version > pushed_version", "xseq > pushed_xseq"):
        assert [row["id"] for row in await world.database.rows(left.format(untold))] == accounts[:2], untold


async def test_an_account_that_is_not_loaded_needs_no_telling(world, principal):
    await write(world, principal)
    assert await world.engine.corrections.sync(partition_of(world), principal.account_id)
    assert await world.database.value("SELECT xseq = pushed_xseq FROM accounts")
    await load(world, principal)
    state = await world.account_state(principal.account_id)
    assert (state.balance_nano, state.xseq) == (10**9 - 500, 2)


async def test_a_correction_while_the_account_is_being_loaded_is_told(world, principal):
    """Its snapshot was taken before; it comes to Redis after."""
    call, loaded = world.link.call, asyncio.Event()

    async def late(script, keys, arguments):
        if getattr(script, "name", "") == "install" and not loaded.is_set():
            loaded.set()
            await world.grants.grant(principal.account_id, 7, "just now", None)
        return await call(script, keys, arguments)

    world.link.call = late
    await load(world, principal)
    assert loaded.is_set()

    async def told():
        return (await world.account_state(principal.account_id)).balance_nano == 10**9 + 7

    await eventually(told)


async def test_a_debit_that_redis_never_saw_counts_in_the_windows_of_account_and_key(world):
    """Of keys that are loaded, and once only of one that is loaded later."""
    principal = await world.customer(10**9, key_quotas=(TOTAL_TOKENS,), quotas=(MONTH_COST, TOTAL_TOKENS))
    await world.api_keys.create(principal.account_id, "second", quotas=(TOTAL_TOKENS,))
    second = await world.database.value("SELECT id FROM api_keys WHERE name = 'second'")
    await load(world, principal)
    await write(world, principal)
    await write(world, principal, key_id=second, model="other")
    await world.engine.corrections.sync(partition_of(world), principal.account_id)
    counters = {counter.tag: counter.taken for counter in (await world.account_state(principal.account_id)).counters}
    assert counters == {MONTH_COST.tag: 500, TOTAL_TOKENS.tag: 30}
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 15
    await world.engine.loader.install(partition_of(world), principal.account_id, second)
    found = await world.link.command("GET", world.keys.key(principal.account_id, second))
    assert type(await world.key_state(principal)).unpack(found).counters[0].taken == 15


async def test_a_correction_of_an_idle_accounts_new_window_counts_there(world):
    """No admission has touched the counter since its window ended; usage that needs no hold counts all the same."""
    minute = Quota(Window.minute, Metric.tokens, 10**6)
    principal = await world.customer(10**9, key_quotas=(minute,), quotas=(minute,))
    await load(world, principal)
    for key in (
        world.keys.account(principal.account_id),
        world.keys.key(principal.account_id, principal.key_id),
    ):
        raw = bytearray(await world.link.command("GET", key))
        raw[-20:-16] = (int.from_bytes(raw[-20:-16], "little") - 5).to_bytes(4, "little")  # five minutes ago
        await world.link.command("SET", key, bytes(raw))
    one = await write(world, principal)
    await world.engine.corrections.sync(partition_of(world), principal.account_id)
    (of_account,) = (await world.account_state(principal.account_id)).counters
    (of_key,) = (await world.key_state(principal)).counters
    assert of_account.taken == of_key.taken == 15
    assert of_account.window_id == of_key.window_id == one.admitted_at_ms // 60_000


@pytest.mark.parametrize("late", [False, True])
async def test_a_correction_ends_the_hold_that_it_settles(world, late):
    """A settlement that Redis gets late, after it was told of the debit or before: once either way."""
    principal = await world.customer(10**9, key_quotas=(TOTAL_TOKENS,), quotas=(MONTH_COST,))
    hold = await hold_one(world, principal)
    await write_debits(world.database, [debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms)])
    if late:
        await settle(world, principal, hold)
    await world.engine.corrections.sync(partition_of(world), principal.account_id)
    if not late:
        assert await world.journal(principal.account_id) == {}
        await settle(world, principal, hold)
    state = await world.account_state(principal.account_id)
    assert (state.balance_nano, state.held_nano, state.running) == (10**9 - 500, 0, 0)
    (counter,) = state.counters
    assert counter.taken == 500
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 15
    assert await debits(world) == {hold.id: 500}
    await assert_agreed(world, principal.account_id)
    assert await entries(world, principal.account_id) == {}


async def test_both_stores_away_cuts_the_answer_and_loses_no_debit(make_world):
    """The client is not told of a whole answer; the debit arrives when Postgres is back."""
    world = await make_world(EngineSettings(holds=replace(PATIENT.holds, ledger_timeout_s=0.1)))
    principal = await world.customer(10**9)
    hold = await hold_one(world, principal)
    wire_of(world).close()
    rows, away = world.database.rows, True

    async def refused(query, *arguments):
        if away and "INSERT INTO usage_events" in query:
            raise DatabaseUnavailable("away")
        return await rows(query, *arguments)

    world.database.rows = refused
    with pytest.raises(SettlementLost):
        await settle(world, principal, hold)
    assert hold.id in world.engine.holds.live
    away = False
    assert await world.engine.holds.drain(60.0)
    assert await debits(world) == {hold.id: 500}
    assert world.engine.holds.live == {}
    assert await ledger_balance(world, principal.account_id) == 10**9 - 500

    async def is_told():
        await ask(world, principal)
        return (await world.account_state(principal.account_id)).balance_nano == 10**9 - 500

    await eventually(is_told)
