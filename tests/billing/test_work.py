"""Periodic work: in one gateway of all by a lease, waiting for stores that are away, and with a clean end."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import StoreError
from billing.work import Lease, Periodic, until_next_s


async def test_of_two_gateways_one_makes_the_rounds_and_the_other_takes_over(billing):
    made, missed = {"one": asyncio.Event(), "two": asyncio.Event()}, asyncio.Event()

    def of(owner):
        async def round_():
            made[owner].set()

        lease = Lease(billing.database, "tested", owner)
        return Periodic(name="tested", every_s=0.05, round=round_, lease=lease, otherwise=missed.set)

    await billing.database.execute(
        "INSERT INTO job_leases (name, owner, until) VALUES ('tested', 'one', now() + interval '1 hour')"
    )
    running = asyncio.create_task(of("two").run())
    async with asyncio.timeout(30):
        await missed.wait()
        assert not made["two"].is_set()
        await billing.database.execute("UPDATE job_leases SET until = now()")
        await made["two"].wait()
    running.cancel()


async def test_a_store_that_is_away_is_waited_for_and_anything_else_ends_the_work(
    monkeypatch,
):
    raised = [StoreError("away"), StoreError("away"), StoreError("away"), ValueError("wrong")]
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    async def round_():
        raise raised.pop(0)

    monkeypatch.setattr("billing.work.asyncio.sleep", sleep)
    with pytest.raises(ValueError, match="wrong"):
        await Periodic(name="tested", every_s=2.0, round=round_, delayed=True).run()
    first, *waited = waits
    assert first == 2.0
    bounds = [(1.0, 2.0), (2.0, 4.0), (2.5, 5.0)]  # twice as long each time, at most 5 s, at random from half of it
    assert all(low <= wait_s <= high for wait_s, (low, high) in zip(waited, bounds, strict=True))


async def test_where_nothing_is_due_neither_the_lease_is_taken_nor_the_round_made():
    looks, rounds, answers = asyncio.Semaphore(0), asyncio.Semaphore(0), [False, True, False]

    async def due():
        looks.release()
        return answers.pop(0) if answers else False

    async def round_():
        rounds.release()

    running = asyncio.create_task(Periodic(name="tested", every_s=0.001, round=round_, due=due).run())
    async with asyncio.timeout(30):
        for _ in range(5):
            await looks.acquire()
        await rounds.acquire()
    running.cancel()
    assert rounds.locked()


@given(st.floats(0, 1e6), st.sampled_from([0.5, 1.0, 2.0, 5.0]), st.sampled_from([0.0, 0.05, None]))
def test_rounds_of_one_process_fall_together(now_s, every_s, least_s):
    with patched_clock(now_s):
        wait_s = until_next_s(every_s, least_s)
    least = every_s / 4 if least_s is None else least_s
    assert least <= wait_s <= every_s + least + 0.001
    with patched_clock(now_s + wait_s):
        assert until_next_s(every_s) == every_s
        assert every_s == 5.0 or until_next_s(2 * every_s) in (every_s, 2 * every_s)


@pytest.mark.parametrize("every_s", [0.0, 60.0, 6 * 3600.0])
async def test_rounds_that_are_far_apart_keep_their_distance(every_s):
    assert until_next_s(every_s) == every_s


@contextmanager
def patched_clock(now_s: float) -> Iterator[None]:
    """Have the event loop's clock stand."""
    loop = SimpleNamespace(time=lambda: now_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("billing.work.asyncio.get_running_loop", lambda: loop)
        yield


async def test_it_is_woken_and_closes_at_its_end():
    woken, rounds, closed = asyncio.Event(), asyncio.Semaphore(0), asyncio.Event()

    async def round_():
        rounds.release()

    async def close():
        closed.set()

    work = Periodic(name="tested", every_s=3600.0, round=round_, woken=woken, close=close)
    running = asyncio.create_task(work.run())
    async with asyncio.timeout(30):
        await rounds.acquire()
        woken.set()
        await rounds.acquire()
        running.cancel()
        await closed.wait()
