"""`max_unsettled` is counted once for the installation, however many partitions and gateways it has."""

import pytest

from billing.holds.engine import EngineSettings
from billing.holds.model import Hold, HoldSettings, Unavailable
from billing.holds.redis.layout import Keyspace
from billing.principals import Principal
from tests.support.holds import World, ask, eventually, settle

PARTITIONS = 8
MOST = 24


@pytest.fixture
def keyspace(key_prefix: str) -> Keyspace:
    return Keyspace(key_prefix, PARTITIONS)


def settings() -> EngineSettings:
    return EngineSettings(holds=HoldSettings(max_unsettled=MOST), ledger_flush_s=10.0)


async def one_in_each(world: World) -> list[Principal]:
    """Customers, one in each partition."""
    found: dict[int, Principal] = {}
    while len(found) < PARTITIONS:
        principal = await world.customer(10**9)
        found.setdefault(world.keys.partition_of(principal.account_id), principal)
    return list(found.values())


async def fill(world: World, principals: list[Principal]) -> list[tuple[Principal, Hold]]:
    """Ask until each partition has refused; the holds that were admitted."""
    admitted = []
    for principal in principals:
        for _ in range(2 * MOST):
            decision = await ask(world, principal)
            if not isinstance(decision, Hold):
                assert isinstance(decision, Unavailable)
                break
            admitted.append((principal, decision))
    return admitted


async def test_partitions_together_let_as_many_through_as_are_allowed(make_world):
    world = await make_world(settings())
    principals = await one_in_each(world)
    async with world.engine.outbox._writing:  # Postgres takes nothing
        admitted = await fill(world, principals)
        assert len(admitted) == MOST
        for principal, hold in admitted:
            await settle(world, principal, hold)
        assert await fill(world, principals) == [], "what was held waits as a debit now"
    await world.engine.outbox.flush()
    assert len(await fill(world, principals[::-1])) == MOST, "one partition alone may have them all"


async def test_what_other_gateways_have_counts_too(make_world):
    one, other = await make_world(settings()), await make_world(settings())
    principals = await one_in_each(one)
    async with one.engine.outbox._writing:
        admitted = await fill(one, principals)
        await settle(one, *admitted[0])
        await other.engine.holds.backlog.refresh()
        assert await fill(other, principals) == []
        for principal, hold in admitted[1:]:
            await settle(one, principal, hold)
    await one.engine.outbox.flush()

    async def is_admitted():
        return isinstance(await ask(other, principals[0]), Hold)

    await eventually(is_admitted)


async def test_a_gateway_that_starts_sees_what_there_is(make_world):
    one = await make_world(settings())
    principals = await one_in_each(one)
    await fill(one, principals)
    other = await make_world(settings())
    assert other.engine.holds.backlog.full_for("nobody")
