"""The journal alone is lost, by a command or an eviction: its holds must not count for ever. The loss is noticed by the
first settlement, void or sweep that misses a hold of a living gateway, and by none of a hold that another gateway has
ended."""

import asyncio

import pytest

from billing.holds import recovery
from billing.holds.epochs import Partitions
from billing.holds.model import SettlementLost
from tests.support.holds import (
    BRISK,
    World,
    assert_agreed,
    debits,
    delete,
    entries,
    eventually,
    hold_one,
    partition_of,
    settle,
    spend,
    stops_to_renew,
)


async def is_held(world: World, account_id: str, held_nano: int, running: int, epoch: int) -> None:
    """The account comes to be loaded again in this epoch, with this much held."""

    async def reached() -> bool:
        state = await world.account_state(account_id)
        return (state.epoch, state.held_nano, state.running) == (epoch, held_nano, running)

    await eventually(reached)


async def test_a_settlement_that_finds_no_hold_begins_a_new_epoch(world, principal):
    ended, running = await hold_one(world, principal), await hold_one(world, principal)
    epoch = partition_of(world).epoch or 0
    await delete(world, world.keys.journal(0))
    await settle(world, principal, ended)
    await is_held(world, principal.account_id, 2000, 1, epoch + 1)
    await settle(world, principal, running)
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == {ended.id: 500, running.id: 500}


async def test_a_void_that_finds_no_hold_begins_a_new_epoch(world, principal):
    voided = await hold_one(world, principal)
    epoch = partition_of(world).epoch or 0
    await delete(world, world.keys.journal(0))
    await world.engine.holds.void(voided)
    assert await world.engine.holds.drain(20.0)
    await spend(world, principal)
    await is_held(world, principal.account_id, 0, 0, epoch + 1)
    await assert_agreed(world, principal.account_id)


async def test_a_sweep_misses_what_runs_and_is_not_in_the_journal(world, principal):
    running = [await hold_one(world, principal) for _ in range(3)]
    epoch = partition_of(world).epoch or 0
    await world.link.command("HDEL", world.keys.journal(0), running[1].id)
    await world.engine.recovery.sweep(partition_of(world))
    await is_held(world, principal.account_id, 6000, 3, epoch + 1)
    assert set(await entries(world, principal.account_id)) == {hold.id for hold in running}
    for hold in running:
        await settle(world, principal, hold)
    await assert_agreed(world, principal.account_id)


async def test_many_that_miss_their_holds_begin_one_epoch(world, principal):
    holds = [await hold_one(world, principal) for _ in range(40)]
    epoch = partition_of(world).epoch or 0
    await delete(world, world.keys.journal(0))
    voids = [world.engine.holds.void(hold) for hold in holds[:10]]
    await asyncio.gather(*voids, *(settle(world, principal, hold) for hold in holds[10:]))
    assert await world.engine.holds.drain(20.0)
    await spend(world, principal)
    assert partition_of(world).epoch == epoch + 1
    await assert_agreed(world, principal.account_id)


@pytest.fixture
def noticed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Epochs that were said to have lost writes."""
    found: list[int] = []
    monkeypatch.setattr(Partitions, "lost_writes", lambda _partitions, _partition, epoch: found.append(epoch))
    return found


async def test_what_another_gateway_has_expired_is_not_taken_for_lost(make_world, noticed):
    world, slow = await make_world(), await make_world()
    principal = await world.customer()
    settled, voided, _running = [await hold_one(slow, principal) for _ in range(3)]
    await stops_to_renew(slow, world)
    assert (await world.engine.recovery.sweep(partition_of(world))).expired == 3
    await slow.engine.recovery.sweep(partition_of(slow))
    with pytest.raises(SettlementLost):
        await settle(slow, principal, settled)
    await slow.engine.holds.void(voided)
    assert await slow.engine.holds.drain(20.0)
    assert noticed == []
    assert (await world.account_state(principal.account_id)).held_nano == 0


async def test_what_is_ended_twice_is_not_taken_for_lost(world, noticed, monkeypatch):
    monkeypatch.setattr(recovery, "ORPHAN_AGE_MS", -60_000)
    principal = await world.customer()
    voided, settled, orphan = [await hold_one(world, principal) for _ in range(3)]
    await world.engine.holds.void(voided)
    await world.engine.holds.void(voided)
    await settle(world, principal, settled)
    await world.engine.holds.void(settled)
    del world.engine.holds.live[orphan.id]
    partition = partition_of(world)
    await asyncio.gather(*(world.engine.recovery.sweep(partition) for _ in range(3)))
    await spend(world, principal)
    assert await world.engine.holds.drain(20.0)
    assert noticed == []
    await assert_agreed(world, principal.account_id)


async def test_the_ledgers_own_way_alone_is_not_taken_for_a_loss(make_world, noticed):
    """Redis answers late, and has carried out what it was asked: its entries are there, or were acknowledged."""
    world = await make_world(BRISK)
    principal = await world.customer()
    holds = [await hold_one(world, principal) for _ in range(20)]
    transport = world.engine.partitions.all[0].session.connection._transport
    transport.pause_reading()
    await asyncio.gather(*(settle(world, principal, hold) for hold in holds))
    transport.resume_reading()
    await world.engine.recovery.sweep(partition_of(world))
    await spend(world, principal)
    await assert_agreed(world, principal.account_id)
    assert noticed == []
    assert await world.engine.holds.drain(20.0)
