"""An upgrade from and beside a release that keeps state in Redis in another layout: nothing is lost or doubled, and the
two never serve at once."""

import asyncio
from dataclasses import replace

import pytest

from billing.holds import engine
from billing.holds.epochs import GREET, MOVE_EPOCH, NotReady
from billing.holds.lease import Peers
from billing.holds.model import Unavailable
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import SETTLED, STATE_VERSION
from billing.ledger.leases import end_lease
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    BRISK,
    World,
    ask_in_vain,
    assert_agreed,
    debits,
    delete,
    entries,
    eventually,
    hold_one,
    kill,
    ledger_balance,
    partition_of,
    settle,
    spend,
)

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)
OLD_GATEWAY = "01JD0000000000000000000OLD"
OLD_LEASE = "INSERT INTO gateways (id, lease_until) VALUES ($1, now() + interval '5 s')"
EPOCH = "SELECT epoch FROM partitions"


async def old_identity(world: World) -> str:
    """What a release of another layout names the server by: without this one's version."""
    life = partition_of(world).session
    return await life.identity()


async def begin_as_the_old(world: World) -> int:
    """Begin an epoch as a gateway of another layout does where it finds another identity than it knows; its number."""
    identity = await old_identity(world)
    row = await world.database.row(GREET, 0)
    moved = await world.database.row(MOVE_EPOCH, 0, row["epoch"], identity, row["epoch"] + 1)
    assert moved is not None
    keys = [world.keys.meta(0), world.keys.joined(0), world.keys.installed(0)]
    arguments = [moved["epoch"], identity, moved["ledger"], moved["beat"]]
    assert await world.link.call(Script("fence"), keys, arguments) == 1
    return int(moved["epoch"])


def slow_outbox(world: World) -> None:
    """Nothing is written to Postgres by this gateway's outbox any more: it is left to the journal."""
    world.engine.loops.tasks["outbox"].cancel()


async def test_what_a_release_of_another_layout_left_in_redis_is_charged_and_states_are_loaded_anew(
    make_world,
):
    old = await make_world()
    principal = await old.customer(10**9, key_quotas=(DAY_TOKENS,), quotas=(DAY_TOKENS,))
    slow_outbox(old)
    spent = [await spend(old, principal) for _ in range(3)]
    running = await hold_one(old, principal)
    account_key = old.keys.account(principal.account_id)
    key_key = old.keys.key(principal.account_id, principal.key_id)
    await delete(old, account_key, key_key)  # the names of states say their layout: it had others
    identity = await old_identity(old)
    await old.database.execute("UPDATE partitions SET identity = $1", identity)
    await old.link.command("HSET", old.keys.meta(0), "identity", identity)
    waiting = [id_ for id_, each in (await entries(old, principal.account_id)).items() if each.state == SETTLED]
    assert set(waiting) & set(spent)
    await kill(old)

    new = await make_world()
    assert await new.database.value(EPOCH) == 2
    again = await spend(new, principal)
    await assert_agreed(new, principal.account_id)
    await eventually(lambda: ended(new, running.id))
    charged = {id_: nano for id_, nano in (await debits(new)).items() if nano}
    assert charged == dict.fromkeys([*spent, again], 500)
    assert await ledger_balance(new, principal.account_id) == 10**9 - 4 * 500
    (counter,) = (await new.account_state(principal.account_id)).counters
    assert counter.taken == 4 * 15


async def ended(world: World, request_id: str) -> bool:
    return request_id in await debits(world)


async def test_a_gateway_does_not_start_beside_those_of_another_layout_and_leaves_them_their_epoch(
    make_world, monkeypatch
):
    old = await make_world()
    principal = await old.customer()
    await old.database.execute(OLD_LEASE, OLD_GATEWAY)
    epoch = await begin_as_the_old(old)
    meta = await old.link.command("HGETALL", old.keys.meta(0))
    await kill(old)
    monkeypatch.setattr(engine, "START_ATTEMPTS", 3)
    with pytest.raises(NotReady, match=f"stop them first .{OLD_GATEWAY}"):
        await make_world()
    leases = await old.database.rows("SELECT id FROM gateways WHERE layout = $1", STATE_VERSION)
    assert [row["id"] for row in leases] == [old.engine.gateway_id], "whoever can't start is not waited for by others"
    monkeypatch.setattr(engine, "START_ATTEMPTS", 1000)

    looked = asyncio.Event()

    async def look(self):
        await look_at_leases(self)
        looked.set()

    look_at_leases = Peers.refresh
    monkeypatch.setattr(Peers, "refresh", look)
    starting = asyncio.create_task(make_world())
    await looked.wait()
    assert not starting.done()
    await end_lease(old.database, OLD_GATEWAY)
    new = await starting
    assert await new.database.value(EPOCH) == epoch + 1
    assert (await new.link.command("HGETALL", new.keys.meta(0))) != meta
    await spend(new, principal)
    await assert_agreed(new, principal.account_id)


async def test_gateways_of_another_layout_that_were_killed_are_waited_for_until_they_are_known_to_be_dead(
    make_world, monkeypatch
):
    monkeypatch.setattr(engine, "START_ATTEMPTS", 1000)
    old = await make_world()
    principal = await old.customer()
    await old.database.execute(OLD_LEASE, OLD_GATEWAY)
    epoch = await begin_as_the_old(old)
    await kill(old)
    new = await make_world(replace(BRISK, lease_s=2.0))
    assert await new.database.value(EPOCH) == epoch + 1
    await spend(new, principal)
    await assert_agreed(new, principal.account_id)


async def test_a_gateway_of_another_layout_that_begins_beside_has_the_partition_until_it_ends(world, principal):
    """The two do not take turns in beginning epochs, only one serves, and running requests are charged once."""
    running = await hold_one(world, principal)
    await world.database.execute(OLD_LEASE, OLD_GATEWAY)
    epoch = await begin_as_the_old(world)
    for _ in range(3):
        refused = await ask_in_vain(world, principal)
        assert isinstance(refused, Unavailable)
        assert OLD_GATEWAY in refused.reason
    assert await world.database.value(EPOCH) == epoch
    assert await world.link.command("HGET", world.keys.meta(0), "open") == b"0"
    assert (await settle(world, principal, running)).available_nano is None  # a direct ledger write
    assert await debits(world) == {running.id: 500}
    await end_lease(world.database, OLD_GATEWAY)
    await spend(world, principal)
    assert await world.database.value(EPOCH) == epoch + 1
    await assert_agreed(world, principal.account_id)
    assert await ledger_balance(world, principal.account_id) == 10**9 - 2 * 500
