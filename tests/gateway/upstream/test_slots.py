"""ConnectionSlots at a provider's connections: shares, rows, and that nothing is lost whoever gives up and when."""

import asyncio
import random

import pytest

from gateway.upstream.base import AccountBusy, ConnectionSlots, UpstreamBusy

LONG_S = 60.0


async def settled() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def take(slots: ConnectionSlots, account: str, timeout_s: float = LONG_S) -> None:
    if not slots.acquire_now(account):
        await slots.wait(account, "host", timeout_s)


async def test_no_account_has_more_than_its_share():
    slots = ConnectionSlots(4, 2, 10)
    assert [slots.acquire_now("a") for _ in range(3)] == [True, True, False]
    assert [slots.acquire_now("b") for _ in range(3)] == [True, True, False]
    assert not slots.acquire_now("c")  # all are taken
    slots.release("a")
    assert slots.acquire_now("c")


async def test_who_waits_for_its_own_stops_nobody():
    slots = ConnectionSlots(3, 1, 10)
    assert slots.acquire_now("a")
    second = asyncio.create_task(take(slots, "a"))
    await settled()
    assert slots.acquire_now("b")
    assert slots.acquire_now("c")
    others = asyncio.create_task(take(slots, "d"))
    await settled()
    slots.release("b")
    await others
    assert not second.done()
    slots.release("a")
    await second


async def test_nobody_s_requests_have_no_share():
    slots = ConnectionSlots(3, 1, 10)
    assert [slots.acquire_now("") for _ in range(4)] == [True, True, True, False]


async def test_rows_are_bounded():
    slots = ConnectionSlots(2, 1, 1)
    assert slots.acquire_now("a")
    own = asyncio.create_task(take(slots, "a"))
    await settled()
    with pytest.raises(AccountBusy):
        await take(slots, "a")
    assert slots.acquire_now("b")
    row = asyncio.create_task(take(slots, "c"))
    await settled()
    with pytest.raises(UpstreamBusy) as busy:
        await take(slots, "d")
    assert not isinstance(busy.value, AccountBusy)
    slots.release("b")
    await row
    slots.release("a")
    await own


async def test_waiting_ends_in_time():
    slots = ConnectionSlots(2, 1, 10)
    assert slots.acquire_now("a")
    with pytest.raises(AccountBusy, match="no free connection within"):
        await take(slots, "a", 0.01)
    assert slots.acquire_now("b")
    with pytest.raises(UpstreamBusy, match="no free connection within") as busy:
        await take(slots, "c", 0.01)
    assert not isinstance(busy.value, AccountBusy)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_is_given_up_the_slots_come_back(seed):
    """Requests of a few accounts come, are served, leave, are cancelled at any moment: all bounds hold, and at the end
    everything is as at the start."""
    chance = random.Random(seed)  # noqa: S311
    slots, running, places, share = ConnectionSlots(5, 2, 8), dict[str, int](), 5, 2

    async def request(account):
        await take(slots, account, chance.choice([0.001, LONG_S]))
        running[account] = running.get(account, 0) + 1
        try:
            assert sum(running.values()) <= places
            assert not account or running[account] <= share
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
        finally:
            running[account] -= 1
            slots.release(account)

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(request(chance.choice(["", "a", "b", "c"]))))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert outcome is None or isinstance(outcome, UpstreamBusy | asyncio.CancelledError), outcome
    assert (slots._free, slots._taken, slots._own_queues, slots._in_own_queues, len(slots._queue)) == (5, {}, {}, 0, 0)
