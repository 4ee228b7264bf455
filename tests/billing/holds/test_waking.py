"""A gateway that stood still, or whose settlements all go to Postgres.

What the ledger has decided meanwhile is decided, and one account that everybody spends from keeps nobody waiting.
"""

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from billing.holds.engine import EngineSettings
from billing.holds.model import Hold, SettlementLost
from billing.ledger.leases import write_expired
from billing.ledger.writer import write_debits
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    PATIENT,
    World,
    assert_agreed,
    debit,
    debits,
    delete,
    entries,
    eventually,
    hold_one,
    joined,
    keys_in_redis,
    ledger_balance,
    partition_of,
    settle,
    stops_to_renew,
    wire_of,
)

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)


async def lose_redis(world: World) -> None:
    await delete(world, *await keys_in_redis(world))
    await world.engine.partitions.renew(partition_of(world))


def note_closed(*holds: Hold) -> list[str]:
    """The ids of those that turn out to be closed, as that is told."""
    told: list[str] = []
    for hold in holds:
        hold.on_closed = partial(told.append, hold.id)
    return told


async def test_a_gateway_that_wakes_is_told_of_each_hold_that_was_swept(make_world):
    """In the same epoch: the entries are gone from Redis, and the ledger has the reason."""
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9)
    holds = [await hold_one(slow, principal) for _ in range(3)]
    told = note_closed(*holds)
    await stops_to_renew(slow, world)
    assert (await world.engine.recovery.sweep(partition_of(world))).expired == 3

    async def all_are_told():
        await slow.engine.recovery.sweep(partition_of(slow))
        return {hold.id for hold in holds} <= set(told)

    await eventually(all_are_told)
    assert partition_of(slow).epoch == partition_of(world).epoch
    for hold in holds:
        with pytest.raises(SettlementLost):
            await settle(slow, principal, hold)
    await assert_agreed(slow, principal.account_id)


async def test_a_gateway_that_wakes_does_not_hold_again_what_the_ledger_has_closed(make_world):
    """It was taken for dead, its holds have expired, and Redis has begun a new epoch."""
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    closed, kept = await hold_one(slow, principal), await hold_one(slow, principal)
    nothing = {"outcome": "expired", "input_tokens": 0, "output_tokens": 0, "charged_nano": 0}
    told = note_closed(closed, kept)
    row = debit(closed.id, principal, admitted_at_ms=closed.admitted_at_ms, **nothing)
    await write_debits(world.database, [row])
    await lose_redis(world)

    async def is_awake():
        return await joined(slow)

    await eventually(is_awake)
    assert told == [closed.id]
    assert list(await entries(world, principal.account_id)) == [kept.id]
    assert (await world.account_state(principal.account_id)).held_nano == 2000
    with pytest.raises(SettlementLost):
        await settle(slow, principal, closed)
    await settle(slow, principal, kept)
    await assert_agreed(slow, principal.account_id)
    assert await debits(slow) == {closed.id: 0, kept.id: 500}
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 15


async def test_a_hold_that_the_ledger_has_settled_already_is_charged_once(make_world):
    world = await make_world()
    principal = await world.customer(10**9)
    hold = await hold_one(world, principal)
    await write_debits(world.database, [debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms)])
    await lose_redis(world)
    await eventually(lambda: joined(world))
    assert await entries(world, principal.account_id) == {}
    assert (await settle(world, principal, hold)).available_nano is None
    assert await debits(world) == {hold.id: 500}
    await assert_agreed(world, principal.account_id)


async def test_what_a_gateway_holds_again_can_not_be_expired_behind_its_back(make_world):
    """Another one had judged it, and is slow to write: Redis has forgotten the claim, and the ledger has no row yet."""
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9)
    hold = await hold_one(slow, principal)
    await stops_to_renew(slow, world)
    lost = world.engine.peers.lost([slow.engine.gateway_id])[slow.engine.gateway_id]
    await lose_redis(world)

    async def is_awake():
        return await joined(slow)

    await eventually(is_awake)
    row = debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms, outcome="expired", charged_nano=0)
    assert await write_expired(world.database, lost, [row]) is None
    await settle(slow, principal, hold)
    await assert_agreed(slow, principal.account_id)
    assert await debits(slow) == {hold.id: 500}


async def test_holds_end_where_a_waking_gateway_was_swept_before_redis_came_back(make_world):
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9)
    holds = [await hold_one(slow, principal) for _ in range(20)]
    await stops_to_renew(slow, world)
    assert (await world.engine.recovery.sweep(partition_of(world))).expired == 20
    await lose_redis(world)

    async def is_awake():
        return await joined(slow)

    await eventually(is_awake)
    ended = await asyncio.gather(*(settle(slow, principal, hold) for hold in holds), return_exceptions=True)
    assert {type(each) for each in ended} == {SettlementLost}
    assert await debits(slow) == dict.fromkeys((hold.id for hold in holds), 0)
    await assert_agreed(slow, principal.account_id)


SLOW_COMMITS = """
CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$;
CREATE TRIGGER slow_commit AFTER INSERT ON transfers FOR EACH STATEMENT EXECUTE FUNCTION slow_commit()
"""


async def test_settlements_of_a_hot_account_reach_the_ledger_in_batches(world, principal):
    holds = [await hold_one(world, principal) for _ in range(200)]
    await world.database.execute(SLOW_COMMITS)
    await world.engine.partitions.renew(partition_of(world))  # every one of these holds is of an older epoch now
    await asyncio.gather(*(settle(world, principal, hold) for hold in holds))
    assert await debits(world) == dict.fromkeys((hold.id for hold in holds), 500)
    assert await world.database.value("SELECT count(DISTINCT xmin::text) FROM usage_events") <= 4
    assert await world.engine.holds.drain(20.0)

    async def is_open():
        return await joined(world)

    await eventually(is_open)
    await hold_one(world, principal)


async def test_who_waits_too_long_is_told_while_the_writing_goes_on(make_world):
    world = await make_world(EngineSettings(holds=replace(PATIENT.holds, settle_timeout_s=0.5, ledger_timeout_s=0.1)))
    principal = await world.customer(10**9)
    hold = await hold_one(world, principal)
    wire_of(world)._transport.pause_reading()
    async with world.database.transaction() as connection:
        await connection.execute("SELECT 1 FROM accounts FOR UPDATE")
        with pytest.raises(SettlementLost, match="in time"):
            await settle(world, principal, hold)
        assert hold.id in world.engine.holds.live
    wire_of(world)._transport.resume_reading()
    assert await world.engine.holds.drain(20.0)
    assert await debits(world) == {hold.id: 500}
    assert world.engine.holds.live == {}
    assert await ledger_balance(world, principal.account_id) == 10**9 - 500
