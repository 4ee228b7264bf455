"""The engine's loops: what runs beside the hot path ends when it is asked to."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from billing.holds import upkeep
from billing.holds.redis.connection import RedisUnfit
from billing.holds.redis.server import Server
from billing.holds.upkeep import Upkeep
from tests.support.holds import WAIT_S, MakeWorld, World, hold_one, spend

MOMENTS: Final = 25
"""Turns of the event loop: more than one command to Redis takes to be written and answered, mostly."""


@pytest.mark.parametrize("loop", [Upkeep.relay, Upkeep.sweep])
async def test_a_loop_that_is_cancelled_ends_at_whatever_moment(
    world: World, monkeypatch: pytest.MonkeyPatch, loop: Callable[[Upkeep], Coroutine[Any, Any, None]]
) -> None:
    """Cancelled once, so many turns after it has begun to ask Redis."""
    principal = await world.customer(10**9)
    await hold_one(world, principal)
    await spend(world, principal)
    await world.engine.loops.stop()
    monkeypatch.setattr(upkeep, "RELAY_INTERVAL_S", 0.0)
    monkeypatch.setattr(upkeep, "RELAY_PAUSE_S", 0.0)
    monkeypatch.setattr(upkeep, "SWEEP_INTERVAL_S", 0.0)
    asked, execute = asyncio.Event(), Server.command

    async def noted(server: Server, *command: bytes | str | int) -> object:
        asked.set()
        return await execute(server, *command)

    monkeypatch.setattr(Server, "command", noted)
    for after in range(MOMENTS):
        await world.engine.change_notifier.stop()
        # Something to tell, so that the relay asks Redis about it.
        await world.database.execute("UPDATE accounts SET pushed_xseq = 0, pushed_version = 0")
        asked.clear()
        task = asyncio.create_task(loop(world.engine.upkeep))
        async with asyncio.timeout(WAIT_S):
            await asked.wait()
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()
        _, goes_on = await asyncio.wait([task], timeout=WAIT_S)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert not goes_on, f"cancelled {after} turns after a command had begun"


async def test_no_engine_starts_on_a_redis_that_evicts(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.link.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(RedisUnfit, match=r"maxmemory-policy allkeys-lru .* set it to noeviction"):
            await make_world()
    finally:
        await world.link.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await make_world()
