"""A hold that nobody has ended: given back, or the debit that it owes once a provider has worked for it."""

import asyncio

import pytest
from ulid import ULID

from billing.holds import engine
from billing.holds.model import Hold
from billing.ledger.debits import Debit
from billing.principals import Principal
from tests.support.holds import (
    MakeWorld,
    World,
    ask,
    assert_agreed,
    debit,
    debits,
    eventually,
    hold_one,
    hold_request,
    need,
)


def owing(hold: Hold, principal: Principal) -> None:
    """Mark a hold as owed."""

    def unresolved(hold: Hold) -> Debit:
        return debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms, charged_nano=hold.cost_nano)

    hold.owe(unresolved)


async def broken() -> None:
    raise RuntimeError("a fault of the caller's")


@pytest.mark.parametrize("owes", [False, True])
async def test_a_block_that_is_left_by_a_fault(world: World, owes: bool) -> None:
    principal = await world.customer(10**9)
    request_id = str(ULID())
    held: list[Hold] = []

    async def serve() -> None:
        opened = world.engine.holds.open(hold_request(request_id, principal, need(), debit(request_id, principal)))
        async with opened as hold:
            assert isinstance(hold, Hold)
            held.append(hold)
            if owes:
                owing(hold, principal)
            await broken()

    with pytest.raises(RuntimeError):
        await serve()
    await world.engine.outbox.flush()
    assert await debits(world) == ({request_id: held[0].cost_nano} if owes else {})
    assert (await world.account_state(principal.account_id)).held_nano == 0
    await assert_agreed(world, principal.account_id)


@pytest.mark.parametrize("owes", [False, True])
async def test_work_that_was_handed_over_and_fails(world: World, owes: bool) -> None:
    principal = await world.customer(10**9)
    hold = await hold_one(world, principal)
    if owes:
        owing(hold, principal)
    world.engine.holds.hand_over(hold, broken())
    with pytest.raises(RuntimeError):
        await asyncio.gather(*world.engine.holds._tasks)
    await world.engine.outbox.flush()
    assert await debits(world) == ({hold.id: hold.cost_nano} if owes else {})
    assert (await world.account_state(principal.account_id)).held_nano == 0


async def test_a_hold_that_has_ended_is_left_alone(world: World) -> None:
    principal = await world.customer(10**9)
    hold = await hold_one(world, principal)
    owing(hold, principal)
    await world.engine.holds.void(hold)
    await world.engine.holds.resolve(hold)
    await world.engine.outbox.flush()
    assert await debits(world) == {}
    assert isinstance(await ask(world, principal), Hold)


async def test_a_process_that_ends_charges_what_it_has_not_come_to_settle(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that a stop has cut, and that are still being counted when its time is over."""
    monkeypatch.setattr(engine, "LAST_S", 60.0)
    world, other = await make_world(), await make_world()
    principal = await world.customer(10**9)
    holds = [await hold_one(world, principal) for _ in range(3)]
    for hold in holds[1:]:
        owing(hold, principal)
    counted = asyncio.Event()
    for hold in holds:
        world.engine.holds.hand_over(hold, counted.wait())
    assert not await world.engine.stop(0.1)
    assert world.engine.holds.live == {}

    async def are_written() -> bool:
        return await debits(other) == {hold.id: hold.cost_nano for hold in holds[1:]}

    await eventually(are_written)
    await assert_agreed(other, principal.account_id)
    counted.set()  # else the fixture's own stop waits for them, in vain


async def test_a_hold_is_settled_once_whoever_comes_second(world: World) -> None:
    """Charged as it was held while it was still being counted: the count comes too late, and changes neither store."""
    principal = await world.customer(10**9)
    hold = await hold_one(world, principal)
    owing(hold, principal)
    first = asyncio.ensure_future(world.engine.holds.resolve(hold))
    await asyncio.sleep(0)
    outcome = world.engine.holds.settle(hold, debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms))
    await first
    await outcome
    while world.engine.holds._tasks:
        await asyncio.wait(world.engine.holds._tasks)
    await world.engine.outbox.flush()
    assert await debits(world) == {hold.id: hold.cost_nano}
    await assert_agreed(world, principal.account_id)
