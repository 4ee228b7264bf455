"""A Redis that was emptied, came back older, or could not be reached: everything is loaded and held again, and every
request that runs meanwhile is charged exactly once."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain, repeat

import pytest

from billing.holds import recovery
from billing.holds.engine import EngineSettings
from billing.holds.model import Hold, HoldSettings, InsufficientBalance, Unavailable
from billing.holds.redis.layout import HELD, SETTLED
from billing.ledger.leases import end_lease
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    BRISK,
    PATIENT,
    WAIT_S,
    World,
    ask,
    assert_agreed,
    debits,
    delete,
    entries,
    eventually,
    hold_one,
    joined,
    keys_in_redis,
    ledger_balance,
    need,
    partition_of,
    settle,
    spend,
    sweep_by_hand,
    wire_of,
)

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)
TOTAL_COST = Quota(Window.total, Metric.cost, 10**12)


async def lose_meta(world: World, _: Principal) -> None:
    await delete(world, world.keys.meta(0))


async def lose_account(world: World, principal: Principal) -> None:
    await delete(world, world.keys.account(principal.account_id))


async def lose_key(world: World, principal: Principal) -> None:
    await delete(world, world.keys.key(principal.account_id, principal.key_id))


async def lose_states(world: World, principal: Principal) -> None:
    await delete(world, *[key for key in await keys_in_redis(world) if not key.endswith(b":meta")])


async def lose_everything(world: World, _: Principal) -> None:
    await delete(world, *await keys_in_redis(world))


Loss = Callable[[World, Principal], Awaitable[None]]


@pytest.mark.parametrize("lose", [lose_meta, lose_account, lose_key, lose_states, lose_everything])
async def test_whatever_is_lost_is_loaded_again_and_running_requests_are_charged_once(make_world, lose):
    world, other = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,), quotas=(TOTAL_COST,))
    spent = [await spend(world, principal), await spend(other, principal)]
    running = [await hold_one(world, principal), await hold_one(other, principal)]
    epoch = partition_of(world).epoch or 0
    await lose(world, principal)
    running.append(await hold_one(world, principal))
    assert partition_of(world).epoch == epoch + 1
    state = await world.account_state(principal.account_id)
    assert (state.epoch, state.held_nano, state.running) == (epoch + 1, 3 * 2000, 3)
    assert {entry.epoch for entry in (await entries(world, principal.account_id)).values() if entry.state == HELD} == {
        epoch + 1
    }
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 2 * 15 + 3 * 110
    (counter,) = state.counters
    assert counter.taken == 2 * 500 + 3 * 2000
    for gateway, hold in zip((world, other, world), running, strict=True):
        await settle(gateway, principal, hold)
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == dict.fromkeys([*spent, *(hold.id for hold in running)], 500)
    assert await ledger_balance(world, principal.account_id) == 10**9 - 5 * 500


async def test_a_lost_journal_alone_still_charges_once(world, principal):
    hold = await hold_one(world, principal)
    await delete(world, world.keys.journal(0))
    assert (await settle(world, principal, hold)).available_nano is None
    assert await debits(world) == {hold.id: 500}
    assert await world.engine.holds.drain(20.0)
    await spend(world, principal)
    await assert_agreed(world, principal.account_id)


async def test_no_admission_before_every_living_gateway_holds_again(make_world):
    """The balance is for one more hold only when the other gateway's is not forgotten."""
    world, other = await make_world(), await make_world()
    principal = await world.customer(3000)
    running = await hold_one(other, principal)
    await lose_everything(world, principal)
    decision = await ask(world, principal, need(least=100, most=100))
    assert decision == InsufficientBalance(1000, 2000, 2000)
    await settle(other, principal, running)
    await assert_agreed(other, principal.account_id)


async def test_redis_that_comes_back_older_neither_loses_nor_doubles(world, monkeypatch):
    """It has forgotten a settlement and a void, and remembers holds that have ended."""
    monkeypatch.setattr(recovery, "ORPHAN_AGE_MS", -60_000)
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", -60_000)
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    before = await spend(world, principal)
    ended, voided, running = [await hold_one(world, principal) for _ in range(3)]
    dumps = {key: await world.link.command("DUMP", key) for key in await keys_in_redis(world)}
    await settle(world, principal, ended)
    await world.engine.holds.void(voided)
    await world.engine.outbox.flush()
    await lose_everything(world, principal)
    for key, dump in dumps.items():
        await world.link.command("RESTORE", key, 0, dump)
    await world.link.command("HSET", world.keys.meta(0), "identity", "another life")
    partition_of(world).forget()
    later = await hold_one(world, principal)
    state = await world.account_state(principal.account_id)
    assert (state.balance_nano, state.held_nano, state.running) == (10**9 - 1000, 4000, 2)
    await settle(world, principal, running)
    await settle(world, principal, later)

    async def is_empty():
        await world.engine.recovery.sweep(partition_of(world))
        return not await world.journal(principal.account_id)

    await eventually(is_empty)
    assert await debits(world) == dict.fromkeys([before, ended.id, running.id, later.id], 500)
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 4 * 15
    await assert_agreed(world, principal.account_id)


async def test_debits_of_an_older_epoch_that_come_late_reach_redis_as_corrections(make_world):
    """An entry that nobody saw before the epoch opened, such as a late one of a replica: written when the account is
    loaded already."""
    world, dead = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,), quotas=(TOTAL_COST,))
    async with dead.engine.outbox._writing:
        spent = await spend(dead, principal)
        for task in dead.engine.loops.tasks.values():
            task.cancel()
        dead.engine.outbox.waiting.ready.clear()
    await dead.engine.lease.stop()
    journal = world.keys.journal(0)
    late = await world.link.command("HGET", journal, spent)
    await world.link.command("HDEL", journal, spent)
    await end_lease(world.database, dead.engine.gateway_id)
    await lose_meta(world, principal)
    hold = await hold_one(world, principal)
    assert (await world.account_state(principal.account_id)).balance_nano == 10**9
    await world.link.command("HSET", journal, spent, late)
    waiting = await entries(world, principal.account_id)
    assert {entry.state for entry in waiting.values()} == {HELD, SETTLED}

    async def swept():
        await world.engine.recovery.sweep(partition_of(world))
        return spent not in await entries(world, principal.account_id)

    await eventually(swept)
    await world.engine.corrections.sync(partition_of(world), principal.account_id)
    state = await world.account_state(principal.account_id)
    assert (state.balance_nano, state.held_nano) == (10**9 - 500, 2000)
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 15 + 110
    (counter,) = state.counters
    assert counter.taken == 500 + 2000
    await settle(world, principal, hold)
    await assert_agreed(world, principal.account_id)


async def test_quotas_that_came_while_a_request_ran_count_it_in_a_new_epoch(world, principal):
    hold = await hold_one(world, principal)
    await world.accounts.set_quotas(principal.account_id, (DAY_TOKENS,))
    await world.api_keys.update(principal.key_id, {"quotas": (TOTAL_COST,)})
    await world.engine.partitions.renew(partition_of(world))
    await eventually(lambda: joined(world))  # another epoch may begin meanwhile
    (counter,) = (await world.account_state(principal.account_id)).counters
    assert (counter.tag, counter.taken) == (DAY_TOKENS.tag, 110)
    (counter,) = (await world.key_state(principal)).counters
    assert (counter.tag, counter.taken) == (TOTAL_COST.tag, 2000)
    await settle(world, principal, hold)
    (counter,) = (await world.account_state(principal.account_id)).counters
    assert counter.taken == 15
    await assert_agreed(world, principal.account_id)


async def test_a_request_that_was_handed_over_is_held_again_and_blocks_no_epoch(world, principal):
    hold = await hold_one(world, principal)
    upstream_ended = asyncio.Event()

    async def finish():
        await upstream_ended.wait()
        await settle(world, principal, hold)

    world.engine.holds.hand_over(hold, finish())
    await world.engine.partitions.renew(partition_of(world))
    await eventually(lambda: joined(world))  # another epoch may begin meanwhile
    state = await world.account_state(principal.account_id)
    assert (state.held_nano, state.running) == (2000, 1)
    upstream_ended.set()
    await world.engine.holds.drain(60.0)
    assert await debits(world) == {hold.id: 500}
    assert await world.database.value("SELECT xseq FROM usage_events") is None
    await assert_agreed(world, principal.account_id)


async def test_a_handed_over_request_that_fails_is_given_back(world, principal):
    hold = await hold_one(world, principal)

    async def fail():
        raise RuntimeError("a fault of the caller's")

    world.engine.holds.hand_over(hold, fail())
    with pytest.raises(RuntimeError):
        await asyncio.gather(*world.engine.holds._tasks)
    assert await world.journal(principal.account_id) == {}
    assert (await world.account_state(principal.account_id)).held_nano == 0


async def test_a_hold_asked_for_in_an_old_epoch_is_not_given_back_while_it_runs(make_world):
    world = await make_world(EngineSettings(holds=HoldSettings(redis_timeout_s=1.0)))
    principal = await world.customer(10**9)
    partition = partition_of(world)
    old, life = partition.epoch or 0, partition.session
    assert life is not None
    await world.engine.partitions.renew(partition)
    partition.agree(life, old, "", set_back=False)
    hold = await hold_one(world, principal)
    assert hold.epoch == partition.epoch != old
    await asyncio.sleep(2.0)  # past the moment at which an admission of unknown fate is given back
    assert hold.id in await entries(world, principal.account_id)
    await settle(world, principal, hold)
    assert await world.database.value("SELECT count(*) FROM usage_events WHERE xseq IS NOT NULL") == 0


async def test_an_admission_that_redis_did_not_answer_is_given_back(make_world):
    """Its reply is lost; it was carried out."""
    world = await make_world(EngineSettings(holds=HoldSettings(redis_timeout_s=1.0)))
    principal = await world.customer(10**9)
    await spend(world, principal)
    wire_of(world)._transport.pause_reading()
    assert isinstance(await ask(world, principal), Unavailable)
    wire_of(world)._transport.resume_reading()

    async def is_given_back():
        return (await world.account_state(principal.account_id)).held_nano == 0

    assert (await world.account_state(principal.account_id)).held_nano == 2000
    await eventually(is_given_back)
    await assert_agreed(world, principal.account_id)


async def test_an_admission_that_nobody_waits_for_any_more_is_given_back(make_world):
    world = await make_world(BRISK)
    principal = await world.customer(10**9)
    await spend(world, principal)
    asking = asyncio.create_task(ask(world, principal))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    async def is_held():
        return (await world.account_state(principal.account_id)).held_nano > 0

    async def is_given_back():
        return not await is_held()

    await eventually(is_held)
    await eventually(is_given_back)


async def silence(world: World) -> None:
    """Redis carries everything out, and its replies are lost."""
    wire_of(world)._transport.pause_reading()


async def cut(world: World) -> None:
    """Redis has not read what was sent when the connection breaks."""
    number = await wire_of(world).ask(["CLIENT", "ID"], WAIT_S)
    await world.link.command("CLIENT", "KILL", "ID", number)


@pytest.mark.parametrize("break_", [silence, cut])
async def test_settlements_in_flight_on_a_broken_connection_are_charged_once(make_world, monkeypatch, break_):
    world = await make_world(BRISK if break_ is silence else PATIENT)
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", -60_000)
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,), quotas=(TOTAL_COST,))
    holds = [await hold_one(world, principal) for _ in range(40)]
    await sweep_by_hand(world)  # else a sweep may write them before their settlements turn to the ledger
    await break_(world)
    settled = await asyncio.gather(*(settle(world, principal, hold) for hold in holds))
    assert {one.available_nano for one in settled} == {None}
    assert await debits(world) == dict.fromkeys((hold.id for hold in holds), 500)
    assert await world.database.value("SELECT count(*) FROM corrections WHERE request_id IS NOT NULL") == 40
    if break_ is silence and partition_of(world).session is not None:
        wire_of(world).close()
    assert world.engine.holds.live == {}

    async def is_empty():
        decision = await ask(world, principal)
        if isinstance(decision, Hold):
            await world.engine.holds.void(decision)
            await world.engine.recovery.sweep(partition_of(world))
        return not await world.journal(principal.account_id)

    await eventually(is_empty)
    await world.engine.holds.drain(60.0)
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 40 * 15
    (counter,) = (await world.account_state(principal.account_id)).counters
    assert counter.taken == 40 * 500
    await assert_agreed(world, principal.account_id)


async def test_a_settlement_whose_client_is_gone_leaves_nothing_behind(world, principal):
    """Cancelled while the direct ledger writer waits for Postgres."""
    hold = await hold_one(world, principal)
    await delete(world, world.keys.journal(0))
    async with world.database.transaction() as connection:
        await connection.execute("SELECT 1 FROM accounts FOR UPDATE")
        settling = asyncio.create_task(settle(world, principal, hold))

        async def on_its_way():
            return len(world.engine.direct_writer) > 0

        await eventually(on_its_way)
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
    assert await world.engine.holds.drain(60.0)
    assert world.engine.holds.live == {}
    assert await debits(world) == {hold.id: 500}
    await world.engine.partitions.renew(partition_of(world))
    await eventually(lambda: joined(world))  # another epoch may begin meanwhile


async def test_gateways_that_start_together_agree_on_one_epoch(make_world):
    worlds = await asyncio.gather(*(make_world() for _ in range(3)))
    principal = await worlds[0].customer(10**9)
    for world in worlds:
        await spend(world, principal)
    assert len({partition_of(world).epoch for world in worlds}) == 1
    await assert_agreed(worlds[0], principal.account_id)


async def test_gateways_in_step_do_not_begin_epochs_over_each_other_for_ever(make_world, monkeypatch):
    """Each begins one while the other has not told Redis of its own yet."""
    worlds = [await make_world(), await make_world()]
    await lose_meta(worlds[0], await worlds[0].customer(10**9))
    for world, first_s in zip(worlds, (0.02, 0.03), strict=True):
        client, waits_s = world.engine.partitions.redis.client, chain([first_s], repeat(0.02))

        async def slowly(*given, call=client.call, waits_s=waits_s):
            await asyncio.sleep(next(waits_s))
            return await call(*given)

        monkeypatch.setattr(client, "call", slowly)
        partition_of(world).forget()
    epochs = await asyncio.gather(*(world.engine.partitions.ensure(partition_of(world)) for world in worlds))
    assert len(set(epochs)) == 1


async def test_an_epoch_that_was_begun_in_the_ledger_alone_is_not_missed(world):
    """The gateway that began it died, or gave up, before it told Redis. If the others did not notice, no new account
    could be loaded."""
    known = await world.customer(10**9)
    await spend(world, known)
    epoch = partition_of(world).epoch or 0
    await world.database.execute("UPDATE partitions SET epoch = epoch + 1, began_at = now()")
    new = await world.customer(10**9)

    async def is_admitted():
        decision = await ask(world, new)
        if isinstance(decision, Hold):
            await world.engine.holds.void(decision)
        return isinstance(decision, Hold)

    await eventually(is_admitted)
    assert (partition_of(world).epoch or 0) > epoch + 1
    for principal in (known, new):
        await spend(world, principal)
        await assert_agreed(world, principal.account_id)


async def test_states_of_an_older_layout_are_loaded_again(world):
    """A new epoch ignores them, and reads their counts from the ledger."""
    principal = await world.customer(10**9, quotas=(DAY_TOKENS,))
    await spend(world, principal)
    partition = partition_of(world)
    before = partition.epoch
    name = world.keys.account(principal.account_id)
    raw = await world.link.command("GET", name)
    await world.link.command("SET", name, b"\x01" + raw[1:-8])  # a counter had nothing held
    await settle(world, principal, await hold_one(world, principal))
    assert partition.epoch is not None
    assert before is not None
    assert partition.epoch > before
    state = await world.account_state(principal.account_id)
    (counter,) = state.counters
    assert (state.balance_nano, counter.used, counter.held) == (10**9 - 1000, 30, 0)
    await assert_agreed(world, principal.account_id)
