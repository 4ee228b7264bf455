"""The order of waiting debits: those of locked accounts stand aside, and none is forgotten."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.database.connection import Database
from billing.holds import debit_writer
from billing.holds.debit_writer import FIRST_PAUSE_S, LASTING_PAUSE_S, MOST_PAUSE_S, DebitQueue
from billing.holds.engine import EngineSettings
from billing.holds.model import Hold, HoldSettings, IllegalTransition, Settled, SettlementLost
from billing.ledger.debits import Debit
from billing.ledger.writer import Written, write_batch
from billing.principals import Principal
from tests.support.holds import WAIT_S, MakeWorld, World, debits, eventually, hold_one, partition_of, settle

Item = tuple[str, int]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def made(*items: Item) -> tuple[DebitQueue[Item], Clock]:
    clock = Clock()
    queue: DebitQueue[Item] = DebitQueue(lambda item: item[0], clock)
    for item in items:
        assert queue.add(item)
    return queue, clock


def test_a_locked_account_stands_aside_with_all_that_it_has():
    queue, clock = made(("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3))
    queue.done(queue.batch(2), {"a"})
    assert queue.ready == [("b", 2)]
    assert not queue.add(("a", 4))
    assert (len(queue), queue.count_locked("a"), queue.count_locked("b")) == (5, 4, 0)
    assert queue.locked == {"a"}
    assert queue.due_s == clock.now_s + FIRST_PAUSE_S
    assert queue.batch(10) == [("b", 2)]
    clock.now_s += FIRST_PAUSE_S
    assert queue.batch(10) == [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 2)]
    assert queue.locked == {"a"}, "it is being tried"
    queue.done(queue.batch(10), set())
    assert (len(queue), queue.locked, queue.due_s) == (0, set(), None)


def test_the_pause_grows_and_is_forgotten_once_it_was_written():
    queue, clock = made(("a", 1))
    pauses = []
    for _ in range(10):
        queue.done(queue.batch(10), {"a"})
        assert queue.due_s is not None
        pauses.append(queue.due_s - clock.now_s)
        assert bool(queue.long_locked) == (pauses[-1] > LASTING_PAUSE_S)
        clock.now_s = queue.due_s
    assert pauses == sorted(pauses)
    assert abs(pauses[-1] - MOST_PAUSE_S) < 1e-6
    queue.done(queue.batch(10), set())
    queue.add(("a", 2))
    queue.done(queue.batch(10), {"a"})
    assert queue.due_s == clock.now_s + FIRST_PAUSE_S


def test_those_who_are_soon_to_be_tried_are_tried_together():
    queue, clock = made(("a", 1))
    for _ in range(8):
        queue.done(queue.batch(10), {"a"})
        assert queue.due_s is not None
        clock.now_s = queue.due_s
    queue.done(queue.batch(10), {"a"})
    clock.now_s += MOST_PAUSE_S * 0.6
    queue.add(("b", 1))
    queue.done(queue.batch(10), {"b"})
    clock.now_s += FIRST_PAUSE_S
    assert queue.batch(10) == [("a", 1), ("b", 1)]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(("add", "write", "wait")), st.sets(st.sampled_from("abc")))
    )
)
def test_every_item_is_written_once(steps):
    queue, clock = made()
    added = []
    written = []
    for account, what, locked in steps:
        if what == "add":
            added.append((account, len(added)))
            queue.add(added[-1])
        elif what == "wait":
            clock.now_s += 0.3
        elif batch := queue.batch(2):
            found = {item[0] for item in batch} & locked
            queue.done(batch, found)
            written += [item for item in batch if item[0] not in found]
        assert sorted([*written, *queue]) == sorted(added)
        assert len(queue) == len(added) - len(written)
    clock.now_s += MOST_PAUSE_S
    while batch := queue.batch(2):
        queue.done(batch, ())
        written += batch
    assert sorted(written) == sorted(added)


@pytest.fixture
async def world(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> World:
    """A gateway whose direct ledger writer tries again soon."""
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
        return await write_batch(database, batch)

    patch.setattr(debit_writer, "write_batch", write)


async def has_failed(world: World) -> None:
    async def is_counted() -> bool:
        return world.engine.loops.failures["direct_writer"] > 0

    await eventually(is_counted)


async def test_a_fault_of_the_program_is_counted_and_the_debit_written_after_it(world, monkeypatch):
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


async def test_a_debit_that_is_at_fault_keeps_nobody_waiting(world, monkeypatch):
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


async def test_a_clean_stop_writes_what_waits_because_of_a_fault(world, monkeypatch):
    principal, broken = await world.customer(), [True]
    hold = await hold_one(world, principal)
    fails_while(monkeypatch, lambda _: bool(broken))
    (settlement,) = await unconfirmed(world, principal, [hold])
    await has_failed(world)
    await world.engine.loops.stop("direct_writer")
    stopping = asyncio.create_task(world.engine.stop(60.0))
    failures = world.engine.loops.failures["direct_writer"]

    async def was_tried_again():
        return world.engine.loops.failures["direct_writer"] > failures

    await eventually(was_tried_again)
    broken.clear()
    assert await stopping
    assert await settlement == Settled(None)
    assert await debits(world) == {hold.id: 500}


async def test_an_outcome_that_can_not_be_passed_on_leaves_the_rest_of_its_batch_alone(world, principal, monkeypatch):
    holds = [await hold_one(world, principal) for _ in range(3)]
    first, enter = holds[0], Hold.enter

    def fails_for_the_first(hold, state):
        if hold is first and state == "settled":
            raise IllegalTransition("a fault in the program")
        enter(hold, state)

    monkeypatch.setattr(Hold, "enter", fails_for_the_first)
    async with world.engine.direct_writer._writing:
        settlements = await unconfirmed(world, principal, holds)
    with pytest.raises(SettlementLost, match="could not be ended"):
        await settlements[0]
    assert await asyncio.gather(*settlements[1:]) == [Settled(None)] * 2
    assert not world.engine.holds.live
    assert world.engine.loops.troubled() == ["direct_writer"]
    assert await debits(world) == {hold.id: 500 for hold in holds}
