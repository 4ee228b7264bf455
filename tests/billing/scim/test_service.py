"""How often and how many at a time an organization's directory may call."""

import asyncio

import pytest

from billing.scim.service import ScimLimit, TooManyCalls
from billing.settings import ScimSettings


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def called(limit: ScimLimit, org_id: str, calls: int) -> int:
    """How many of these calls are let in."""
    for made in range(calls):
        try:
            async with limit.entered(org_id):
                pass
        except TooManyCalls as error:
            return made if error.retry_after_s >= 1 else -1
    return calls


async def test_calls_of_ten_seconds_may_come_at_once():
    clock = Clock()
    limit = ScimLimit(ScimSettings(scim_requests_per_s=2), clock)
    assert await called(limit, "one", 100) == 20
    assert await called(limit, "other", 5) == 5
    clock.now_s += 1.5
    assert await called(limit, "one", 100) == 3
    clock.now_s += 1000
    assert await called(limit, "one", 100) == 20


async def test_what_is_looked_at_counts():
    clock = Clock()
    limit = ScimLimit(ScimSettings(scim_requests_per_s=2), clock)
    limit.spend("one", 30_000)
    assert await called(limit, "one", 1) == 0
    clock.now_s += 6
    assert await called(limit, "one", 100) == 2


async def test_few_run_at_once_and_few_wait():
    limit = ScimLimit(ScimSettings(scim_at_once=1, scim_waiting=1), Clock())
    done, order = asyncio.Event(), []

    async def call(name: str) -> None:
        async with limit.entered("one"):
            order.append(name)
            await done.wait()

    async with asyncio.TaskGroup() as tasks:
        for name in ("first", "second"):
            tasks.create_task(call(name))
            await asyncio.sleep(0)
        with pytest.raises(TooManyCalls):
            await call("third")
        async with limit.entered("other"):
            assert order == ["first"]
        done.set()
    assert order == ["first", "second"]
    assert limit._of("one").waiting == 0


async def test_who_gives_up_waiting_waits_no_more():
    limit = ScimLimit(ScimSettings(scim_at_once=1), Clock())
    async with limit.entered("one"):
        waiting = asyncio.create_task(called(limit, "one", 1))
        await asyncio.sleep(0)
        assert limit._of("one").waiting == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert limit._of("one").waiting == 0


async def test_nothing_is_kept_of_who_calls_no_more():
    clock = Clock()
    limit = ScimLimit(ScimSettings(), clock)
    for n in range(100):
        await called(limit, f"org {n}", 1)
        clock.now_s += 60
    assert len(limit._turns) == 1
