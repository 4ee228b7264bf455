"""A hold that nobody has ended: given back, or the debit that it owes once a provider has worked for it."""

import asyncio

import pytest
from ulid import ULID

from billing.holds.hold import Hold
from billing.ledger.debits import Debit
from billing.principals import Principal
from tests.billing.holds.conftest import World, debit, need
from tests.billing.holds.support import ask, assert_agreed, debits, hold_one


def owing(hold: Hold, principal: Principal) -> None:
    """Have it owe what it holds."""

    def unresolved(hold: Hold) -> Debit:
        return debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms, charged_nano=hold.cost_nano)

    hold.unresolved = unresolved


async def broken() -> None:
    raise RuntimeError("a fault of the caller's")


@pytest.mark.parametrize("owes", [False, True])
async def test_a_block_that_is_left_by_a_fault(world: World, owes: bool) -> None:
    principal = await world.customer(10**9)
    request_id = str(ULID())
    held: list[Hold] = []

    async def serve() -> None:
        opened = world.engine.holds.open(request_id, principal, "demo", "llm", need(), debit(request_id, principal))
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
