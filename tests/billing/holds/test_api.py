"""A hold's life on the real stores: admitted, settled, in the ledger, forgotten by the journal."""

import asyncio

import pytest
from ulid import ULID

from billing.accounts.grants import Grants
from billing.holds import engine
from billing.holds.batch import Batcher
from billing.holds.model import Exhausted, Hold, InsufficientBalance, QuotaExceeded
from billing.holds.recovery import Swept
from billing.holds.redis.layout import OK
from billing.ledger.debits import Debit
from billing.principals import Limit, Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    BRISK,
    ask,
    assert_agreed,
    debit,
    debits,
    eventually,
    hold_one,
    hold_request,
)


async def test_a_settled_hold_reaches_the_ledger_once(world, principal):
    request_id = str(ULID())
    async with world.engine.holds.open(hold_request(request_id, principal)) as hold:
        assert isinstance(hold, Hold)
        state = await world.account_state(principal.account_id)
        assert (state.held_nano, state.running, state.balance_nano) == (2000, 1, 10**9)
        spent = debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms)
        settled = await world.engine.holds.settle(hold, spent)
    assert settled.available_nano == 10**9 - 500
    await world.engine.outbox.flush()
    assert await world.database.value("SELECT balance_nano FROM accounts") == 10**9 - 500
    rows = await world.database.rows("SELECT * FROM usage_events")
    assert [(row["request_id"], row["charged_nano"], row["dseq"], row["xseq"]) for row in rows] == [
        (request_id, 500, 1, None)
    ]
    assert await world.journal(principal.account_id) == {}
    state = await world.account_state(principal.account_id)
    assert (state.held_nano, state.running, state.balance_nano) == (0, 0, 10**9 - 500)


async def test_a_hold_that_is_not_settled_is_given_back(world, principal):
    request_id = str(ULID())
    async with world.engine.holds.open(hold_request(request_id, principal)) as hold:
        assert isinstance(hold, Hold)
    state = await world.account_state(principal.account_id)
    assert (state.held_nano, state.running, state.balance_nano) == (0, 0, 10**9)
    assert await world.journal(principal.account_id) == {}


async def test_an_elastic_hold_takes_what_the_balance_leaves(world):
    principal = await world.customer(1500)
    request_id = str(ULID())
    async with world.engine.holds.open(hold_request(request_id, principal)) as hold:
        assert isinstance(hold, Hold)
        assert hold.granted_output == 50
        other = str(ULID())
        async with world.engine.holds.open(hold_request(other, principal)) as no:
            assert no == InsufficientBalance(0, 1010, 1500)
            assert no.is_held


async def test_a_window_refuses_and_says_which(world):
    quota = Quota(Window.day, Metric.tokens, 50)
    principal = await world.customer(10**9, key_quotas=(quota,))
    request_id = str(ULID())
    async with world.engine.holds.open(hold_request(request_id, principal)) as hold:
        assert isinstance(hold, Hold)
        assert hold.granted_output == 40
        other = str(ULID())
        async with world.engine.holds.open(hold_request(other, principal)) as no:
            assert isinstance(no, QuotaExceeded)
            (exhausted,) = no.exhausted
            assert exhausted == Exhausted(Limit("key", quota), 0, 50, 11)
            assert no.is_held
        spent = debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms)
        await world.engine.holds.settle(hold, spent)
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 15


async def test_a_grant_reaches_redis_and_a_new_quota_counts_what_came_before(world, principal):
    request_id = str(ULID())
    async with world.engine.holds.open(hold_request(request_id, principal)) as hold:
        assert isinstance(hold, Hold)
        await world.engine.holds.settle(hold, debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms))
    assert isinstance(world.grants, Grants)
    await world.grants.grant(principal.account_id, 7, "again", None)
    state = await world.account_state(principal.account_id)
    assert (state.balance_nano, state.xseq) == (10**9 - 500 + 7, 2)
    running = str(ULID())
    async with world.engine.holds.open(hold_request(running, principal)) as hold:
        assert isinstance(hold, Hold)
        await world.accounts.set_quotas(principal.account_id, (Quota(Window.day, Metric.tokens, 1000),))
        (counter,) = (await world.account_state(principal.account_id)).counters
        assert (counter.pending, counter.taken) == (False, 15 + 110)
        await world.engine.holds.settle(hold, debit(running, principal, admitted_at_ms=hold.admitted_at_ms))
    (counter,) = (await world.account_state(principal.account_id)).counters
    assert counter.taken == 30


async def test_cancelled_in_the_turn_of_its_answer_it_is_given_back(make_world, monkeypatch):
    """Redis has admitted and its answer is here, but the client's leaving comes before the request goes on."""
    world = await make_world(BRISK)
    principal = await world.customer(10**9)
    request_id, resolve = str(ULID()), Hold.resolve

    def resolve_and_leave(self, reply, epoch):
        resolve(self, reply, epoch)
        if reply[0] == OK:
            serving.cancel()

    async def serve():
        async with world.engine.holds.open(hold_request(request_id, principal)):
            pytest.fail("nobody is there to be served")

    async def nothing_given_back(*_, **__):
        return Swept(0, 0, 0)

    monkeypatch.setattr(Hold, "resolve", resolve_and_leave)
    monkeypatch.setattr(world.engine.recovery, "sweep", nothing_given_back)
    serving = asyncio.create_task(serve())
    with pytest.raises(asyncio.CancelledError):
        await serving

    async def given_back():
        state = await world.account_state(principal.account_id)
        return (state.held_nano, state.running) == (0, 0)

    await eventually(given_back)


async def test_what_is_done_meanwhile_is_done_once_between_question_and_answer(world, principal, monkeypatch):
    """Also for an account that has to be loaded first, for which Redis is asked twice."""
    submit, resolve, seen = Batcher.submit, Hold.resolve, list[str]()

    def submitted(self, item):
        seen.append("asked")
        return submit(self, item)

    def answered(self, reply, epoch):
        seen.append("answered")
        resolve(self, reply, epoch)

    monkeypatch.setattr(Batcher, "submit", submitted)
    monkeypatch.setattr(Hold, "resolve", answered)
    gathered = ["asked", "answered", "asked", "meanwhile", "answered"]  # the first one waits for company
    for expected in (gathered, ["asked", "meanwhile", "answered"]):
        request_id = str(ULID())
        async with world.engine.holds.open(
            hold_request(request_id, principal, meanwhile=lambda: seen.append("meanwhile"))
        ) as hold:
            assert isinstance(hold, Hold)
            assert seen == expected
        seen.clear()


async def test_a_fault_meanwhile_leaves_no_hold(make_world):
    world = await make_world(BRISK)
    principal = await world.customer(10**9)
    first = str(ULID())
    async with world.engine.holds.open(hold_request(first, principal)):
        pass  # its state is warm now: the next one is admitted by the call that is on its way
    request_id = str(ULID())

    def fail():
        raise LookupError

    with pytest.raises(LookupError):
        async with world.engine.holds.open(hold_request(request_id, principal, meanwhile=fail)):
            raise AssertionError

    async def nothing_held():
        state = await world.account_state(principal.account_id)
        return (state.hold_version, state.held_nano, state.running) == (4, 0, 0)

    await eventually(nothing_held)
    assert await world.journal(principal.account_id) == {}


async def test_a_settlement_is_on_its_way_though_nobody_waits_for_it(world, principal):
    request_id = str(ULID())
    async with world.engine.holds.open(hold_request(request_id, principal)) as hold:
        assert isinstance(hold, Hold)
        world.engine.holds.settle(hold, debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms))

    async def settled():
        return (await world.account_state(principal.account_id)).balance_nano == 10**9 - 500

    async def written():  # Redis says that it has settled before this process has heard of it
        return bool(await world.database.value("SELECT balance_nano FROM accounts") == 10**9 - 500)

    await eventually(settled)
    await eventually(written)


def owing(hold: Hold, principal: Principal) -> None:
    """Mark a hold as owed."""

    def unresolved(hold: Hold) -> Debit:
        return debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms, charged_nano=hold.cost_nano)

    hold.owe(unresolved)


async def broken() -> None:
    raise RuntimeError("a fault of the caller's")


@pytest.mark.parametrize("owes", [False, True])
async def test_a_block_that_is_left_by_a_fault(world, principal, owes):
    request_id = str(ULID())
    held = []

    async def serve():
        opened = world.engine.holds.open(hold_request(request_id, principal))
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
async def test_work_that_was_handed_over_and_fails(world, principal, owes):
    hold = await hold_one(world, principal)
    if owes:
        owing(hold, principal)
    world.engine.holds.hand_over(hold, broken())
    with pytest.raises(RuntimeError):
        await asyncio.gather(*world.engine.holds._tasks)
    await world.engine.outbox.flush()
    assert await debits(world) == ({hold.id: hold.cost_nano} if owes else {})
    assert (await world.account_state(principal.account_id)).held_nano == 0


async def test_a_hold_that_has_ended_is_left_alone(world, principal):
    hold = await hold_one(world, principal)
    owing(hold, principal)
    await world.engine.holds.void(hold)
    await world.engine.holds.resolve(hold)
    await world.engine.outbox.flush()
    assert await debits(world) == {}
    assert isinstance(await ask(world, principal), Hold)


async def test_a_process_that_ends_charges_what_it_has_not_come_to_settle(make_world, monkeypatch):
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

    async def are_written():
        return await debits(other) == {hold.id: hold.cost_nano for hold in holds[1:]}

    await eventually(are_written)
    await assert_agreed(other, principal.account_id)
    counted.set()  # else the fixture's own stop waits for them, in vain


async def test_a_hold_is_settled_once_whoever_comes_second(world, principal):
    """Charged as it was held while it was still being counted: the count comes too late, and changes neither store."""
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
