"""Turns at a provider's connections: shares, rows, and that nothing is lost whoever gives up and when."""

import asyncio
import random

import pytest

from gateway.upstream.base import AccountBusy, UpstreamBusy
from gateway.upstream.turns import Turns

LONG_S = 60.0


async def settled() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def take(turns: Turns, account: str, timeout_s: float = LONG_S) -> None:
    if not turns.take(account):
        await turns.wait(account, "host", timeout_s)


async def test_no_account_has_more_than_its_share() -> None:
    turns = Turns(4, 2, 10)
    assert [turns.take("a") for _ in range(3)] == [True, True, False]
    assert [turns.take("b") for _ in range(3)] == [True, True, False]
    assert not turns.take("c")  # all are taken
    turns.give("a")
    assert turns.take("c")


async def test_who_waits_for_its_own_stops_nobody() -> None:
    turns = Turns(3, 1, 10)
    assert turns.take("a")
    second = asyncio.create_task(take(turns, "a"))
    await settled()
    assert turns.take("b")
    assert turns.take("c")
    others = asyncio.create_task(take(turns, "d"))
    await settled()
    turns.give("b")
    await others
    assert not second.done()
    turns.give("a")
    await second


async def test_nobody_s_requests_have_no_share() -> None:
    turns = Turns(3, 1, 10)
    assert [turns.take("") for _ in range(4)] == [True, True, True, False]


async def test_rows_are_bounded() -> None:
    turns = Turns(2, 1, 1)
    assert turns.take("a")
    own = asyncio.create_task(take(turns, "a"))
    await settled()
    with pytest.raises(AccountBusy):
        await take(turns, "a")
    assert turns.take("b")
    row = asyncio.create_task(take(turns, "c"))
    await settled()
    with pytest.raises(UpstreamBusy) as busy:
        await take(turns, "d")
    assert not isinstance(busy.value, AccountBusy)
    turns.give("b")
    await row
    turns.give("a")
    await own


async def test_waiting_ends_in_time() -> None:
    turns = Turns(2, 1, 10)
    assert turns.take("a")
    with pytest.raises(AccountBusy, match="no free connection within"):
        await take(turns, "a", 0.01)
    assert turns.take("b")
    with pytest.raises(UpstreamBusy, match="no free connection within") as busy:
        await take(turns, "c", 0.01)
    assert not isinstance(busy.value, AccountBusy)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_is_given_up_the_places_come_back(seed: int) -> None:
    """Requests of a few accounts come, are served, leave, are cancelled at any moment: all bounds hold, and at the end
    everything is as at the start."""
    chance = random.Random(seed)  # noqa: S311
    turns, running, places, share = Turns(5, 2, 8), dict[str, int](), 5, 2

    async def request(account: str) -> None:
        await take(turns, account, chance.choice([0.001, LONG_S]))
        running[account] = running.get(account, 0) + 1
        try:
            assert sum(running.values()) <= places
            assert not account or running[account] <= share
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
        finally:
            running[account] -= 1
            turns.give(account)

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(request(chance.choice(["", "a", "b", "c"]))))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    for told in await asyncio.gather(*tasks, return_exceptions=True):
        assert told is None or isinstance(told, UpstreamBusy | asyncio.CancelledError), told
    assert (turns._free, turns._taken, turns._own_rows, turns._in_own_rows, len(turns._row)) == (5, {}, {}, 0, 0)
