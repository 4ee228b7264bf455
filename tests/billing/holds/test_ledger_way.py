"""The ledger's own way: settlements that Redis did not confirm, where the program itself is at fault."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from billing.database.connection import Database
from billing.holds import debit_writer
from billing.holds.engine import EngineSettings
from billing.holds.model import Hold, HoldSettings, IllegalTransition, Settled, SettlementLost
from billing.ledger.debits import Debit
from billing.ledger.writer import Written, write_free
from billing.principals import Principal
from tests.support.holds import WAIT_S, MakeWorld, World, debits, eventually, hold_one, partition_of, settle


@pytest.fixture
async def world(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> World:
    """A gateway whose ledger's own way tries again soon."""
    monkeypatch.setattr(debit_writer, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(debit_writer, "MOST_RETRY_S", 0.02)
    return await make_world(EngineSettings(holds=HoldSettings(ledger_timeout_s=WAIT_S)))


async def unconfirmed(
    world: World, principal: Principal, holds: Sequence[Hold], models: Sequence[str] = ()
) -> list[asyncio.Task[Settled]]:
    """Settle holds that Redis does not know, because it is in another epoch; their debits wait."""
    await world.engine.partitions.renew(partition_of(world))
    tasks = [
        asyncio.create_task(settle(world, principal, hold, model=model))
        for hold, model in zip(holds, models or ["demo"] * len(holds), strict=True)
    ]
    while any(hold.state in ("held", "owed") for hold in holds):
        await asyncio.sleep(0)
    return tasks


def fails_while(patch: pytest.MonkeyPatch, condition: Callable[[Sequence[Debit]], bool]) -> None:
    """Have writing a batch fail by a fault of the program where the condition holds."""

    async def write(database: Database, batch: Sequence[Debit]) -> Written:
        if condition(batch):
            raise ZeroDivisionError("a fault in the program")
        return await write_free(database, batch)

    patch.setattr(debit_writer, "write_free", write)


async def has_failed(world: World) -> None:
    async def is_counted() -> bool:
        return world.engine.loops.failures["direct_writer"] > 0

    await eventually(is_counted)


async def test_a_fault_of_the_program_is_counted_and_the_debit_written_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    principal, broken = await world.customer(), [True]
    hold = await hold_one(world, principal)
    fails_while(monkeypatch, lambda _: bool(broken))
    (settlement,) = await unconfirmed(world, principal, [hold])
    await has_failed(world)
    assert world.engine.loops.troubled() == ["direct_writer"]
    assert not settlement.done()
    broken.clear()
    assert await settlement == Settled(None)
    assert await debits(world) == {hold.id: 500}


async def test_a_debit_that_is_at_fault_keeps_nobody_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    principal, broken = await world.customer(), [True]
    holds = [await hold_one(world, principal) for _ in range(7)]
    fails_while(monkeypatch, lambda batch: bool(broken) and any(debit.model == "poison" for debit in batch))
    models = ["demo"] * 3 + ["poison"] + ["demo"] * 3
    async with world.engine.direct_writer._writing:
        settlements = await unconfirmed(world, principal, holds, models)
    poisoned = settlements.pop(3)
    assert await asyncio.gather(*settlements) == [Settled(None)] * 6
    assert not poisoned.done()
    broken.clear()
    await poisoned
    assert await debits(world) == {hold.id: 500 for hold in holds}


async def test_a_clean_stop_writes_what_waits_because_of_a_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    principal, broken = await world.customer(), [True]
    hold = await hold_one(world, principal)
    fails_while(monkeypatch, lambda _: bool(broken))
    (settlement,) = await unconfirmed(world, principal, [hold])
    await has_failed(world)
    await world.engine.loops.stop("direct_writer")
    stopping = asyncio.create_task(world.engine.stop(60.0))
    failures = world.engine.loops.failures["direct_writer"]

    async def was_tried_again() -> bool:
        return world.engine.loops.failures["direct_writer"] > failures

    await eventually(was_tried_again)
    broken.clear()
    assert await stopping
    assert await settlement == Settled(None)
    assert await debits(world) == {hold.id: 500}


async def test_an_outcome_that_can_not_be_passed_on_leaves_the_rest_of_its_batch_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    principal = await world.customer()
    holds = [await hold_one(world, principal) for _ in range(3)]
    first, enter = holds[0], Hold.enter

    def fails_for_the_first(hold: Hold, state: str) -> None:
        if hold is first and state == "settled":
            raise IllegalTransition("a fault in the program")
        enter(hold, state)  # type: ignore[arg-type]

    monkeypatch.setattr(Hold, "enter", fails_for_the_first)
    async with world.engine.direct_writer._writing:
        settlements = await unconfirmed(world, principal, holds)
    with pytest.raises(SettlementLost, match="could not be ended"):
        await settlements[0]
    assert await asyncio.gather(*settlements[1:]) == [Settled(None)] * 2
    assert not world.engine.holds.live
    assert world.engine.loops.troubled() == ["direct_writer"]
    assert await debits(world) == {hold.id: 500 for hold in holds}
