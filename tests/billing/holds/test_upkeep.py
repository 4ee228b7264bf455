"""Loops beside the hot path: none is ever dead unnoticed."""

import asyncio
import logging

import pytest

from billing import work
from billing.holds import engine
from billing.holds.engine import Upkeep
from billing.holds.redis.client import Server
from billing.holds.redis.connection import RedisUnfit
from billing.work import WELL_AFTER_S, Loops
from tests.support.holds import WAIT_S, eventually, hold_one, spend


@pytest.fixture(autouse=True)
def _without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "FIRST_PAUSE_S", 0.0)


async def runs(loops: Loops, faults: list[Exception]) -> asyncio.Event:
    """Run a loop that fails by these faults first, and waits for ever then."""
    goes_on = asyncio.Event()

    async def loop() -> None:
        if faults:
            raise faults.pop(0)
        goes_on.set()
        await asyncio.Event().wait()

    loops.start("sweep", loop)
    async with asyncio.timeout(WAIT_S):
        await goes_on.wait()
    return goes_on


async def test_a_loop_that_fails_begins_anew_and_is_counted():
    loops = Loops()
    await runs(loops, [])
    assert dict(loops.failures) == {"sweep": 0}
    await loops.stop()
    await runs(loops, [ZeroDivisionError("one"), KeyError("two")])
    assert dict(loops.failures) == {"sweep": 2}
    await loops.stop()
    assert loops.tasks == {}


async def test_its_traceback_is_logged_once(caplog):
    loops = Loops()
    await runs(loops, [ZeroDivisionError("one"), ZeroDivisionError("one"), KeyError("two")])
    with_traceback = [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR]
    assert with_traceback == [True, False, True]
    await loops.stop()


async def test_it_is_trouble_until_it_has_run_well_for_a_while():
    now_s = [0.0]
    loops = Loops(lambda: now_s[0])
    await runs(loops, [ZeroDivisionError("one")])
    assert loops.troubled() == ["sweep"]
    now_s[0] += WELL_AFTER_S - 1
    assert loops.troubled() == ["sweep"]
    now_s[0] += 1
    assert loops.troubled() == []
    await loops.stop()


async def test_a_loop_that_ends_by_itself_begins_anew():
    loops, begun = Loops(), asyncio.Semaphore(0)

    async def ends():
        begun.release()

    loops.start("roller", ends)
    async with asyncio.timeout(WAIT_S):
        await begun.acquire()
        await begun.acquire()
    assert loops.failures["roller"] >= 1
    await loops.stop()


async def test_loops_are_stopped_by_name():
    loops = Loops()
    await runs(loops, [])
    loops.start("relay", asyncio.Event().wait)
    sweep = loops.tasks["sweep"]
    await loops.stop("sweep", "unknown")
    assert sweep.cancelled()
    assert list(loops.tasks) == ["relay"]
    await loops.stop()
    assert loops.failures.total() == 0


@pytest.mark.parametrize("name", ["outbox", "direct_writer", "roller", "tend", "relay", "sweep", "subscribe"])
async def test_each_loop_of_the_engine_outlives_a_fault_of_the_program(world, name, monkeypatch):
    """Also after an exception that no code expects."""
    engine, whole = world.engine, {}
    places = {
        "outbox": (engine.outbox, "_gather"),
        "direct_writer": (engine.direct_writer, "_flush_or_pause"),
        "roller": (engine.roller, "round"),
        "tend": (engine.partitions, "is_current"),
        "relay": (engine.change_notifier, "relay"),
        "sweep": (engine.recovery, "sweep"),
        "subscribe": (engine.cache, "drop"),
    }
    owner, method = places[name]
    whole[name] = getattr(owner, method)

    def breaks(*_, **__):
        setattr(owner, method, whole[name])
        raise ZeroDivisionError("a fault in the program")

    monkeypatch.setattr(engine.roller, "_interval_s", 0.01)
    setattr(owner, method, breaks)
    principal = await world.customer()
    await spend(world, principal)
    await world.link.publish(world.keys.channel, b"nothing")
    engine.direct_writer._arrived.set()
    engine.pending.changes.set()

    async def has_failed():
        return engine.loops.failures[name] == 1

    await eventually(has_failed)
    assert engine.loops.troubled() == [name]

    async def is_written():
        return bool(await world.database.value("SELECT count(*) FROM usage_events"))

    async def is_subscribed():
        return engine.cache.subscribed

    await eventually(is_written)
    await eventually(is_subscribed)


# Turns of the event loop: more than one command to Redis takes to be written and answered, mostly.
MOMENTS = 25


@pytest.mark.parametrize("loop", [Upkeep.relay, Upkeep.sweep])
async def test_a_loop_that_is_cancelled_ends_at_whatever_moment(
    world,
    principal,
    monkeypatch,
    loop,
):
    """Cancelled once, so many turns after it has begun to ask Redis."""
    await hold_one(world, principal)
    await spend(world, principal)
    await world.engine.loops.stop()
    monkeypatch.setattr(engine, "RELAY_INTERVAL_S", 0.0)
    monkeypatch.setattr(engine, "RELAY_PAUSE_S", 0.0)
    monkeypatch.setattr(engine, "SWEEP_INTERVAL_S", 0.0)
    asked, execute = asyncio.Event(), Server.command

    async def noted(server, *command):
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


async def test_no_engine_starts_on_a_redis_that_evicts(make_world):
    world = await make_world()
    await world.link.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(RedisUnfit, match=r"maxmemory-policy allkeys-lru .* set it to noeviction"):
            await make_world()
    finally:
        await world.link.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await make_world()
