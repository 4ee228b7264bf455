"""Periodic work: in one gateway of all by a lease, waiting for stores that are away, and with a clean end."""

import asyncio

import pytest

from billing.errors import StoreError
from billing.work import Lease, Periodic


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
