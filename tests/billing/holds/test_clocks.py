"""Clocks of the stores that are wrong: what runs ends whole, nothing is admitted by a clock that is, and windows are
those of the time that it is.

Redis shows a time that the test sets: scripts and handshakes read it from a key, as a difference to the true one.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from billing.holds import epochs, loading
from billing.holds.epochs import NotReady
from billing.holds.model import Hold, QuotaExceeded, Unavailable
from billing.holds.redis.connection import Script, ServerSession
from billing.holds.redis.layout import AHEAD_S, Counter
from billing.quotas import Metric, Quota, Window, window_id
from tests.model.scripts import CLOCK_LINE
from tests.support.holds import (
    World,
    ask,
    ask_in_vain,
    assert_agreed,
    debits,
    eventually,
    hold_one,
    joined,
    need,
    partition_of,
    settle,
    spend,
)

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)
MINUTES_20 = 1200
DAY_S = 86_400
# So long may pass on a busy machine from one store's answer to the other's.
LATE_S = 50
TO_1970 = -56 * 365 * DAY_S

SetClock = Callable[[World, int], Awaitable[None]]


@pytest.fixture
def set_redis_clock(monkeypatch: pytest.MonkeyPatch, key_prefix: str) -> SetClock:
    """Sets Redis's clock, of every gateway that is made afterwards, so many seconds ahead."""
    name = f"{{{key_prefix}0}}:ahead"
    make, time_ms = Script.__init__, ServerSession.time_ms

    def made(script: Script, script_name: str) -> None:
        make(script, script_name)
        shown = f"{CLOCK_LINE.decode()} TIME[1] = TIME[1] + tonumber(redis.call('GET', '{name}') or 0)"
        script.source = script.source.replace(CLOCK_LINE, shown.encode())
        script.sha = hashlib.sha1(script.source, usedforsecurity=False).hexdigest().encode()

    async def shown_ms(life: ServerSession) -> int:
        return await time_ms(life) + int(await life.ask("GET", name) or 0) * 1000

    monkeypatch.setattr(Script, "__init__", made)
    monkeypatch.setattr(ServerSession, "time_ms", shown_ms)

    async def set_clock(world: World, ahead_s: int) -> None:
        await world.link.command("SET", name, ahead_s)

    return set_clock


@pytest.fixture
def set_postgres_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets Postgres's clock so many seconds ahead, as everybody here reads it."""

    true = {(module, name): getattr(module, name) for module, name in ((epochs, "BEAT"), (loading, "LEDGER_CLOCK"))}

    def set_clock(ahead_s: int) -> None:
        shown = f"(clock_timestamp() + interval '{ahead_s} seconds')"
        for (module, name), query in true.items():
            monkeypatch.setattr(module, name, query.replace("clock_timestamp()", shown))

    return set_clock


async def is_served(world: World, principal: object) -> bool:
    """Whether a request is admitted; its hold is given back."""
    decision = await ask(world, principal)
    if isinstance(decision, Hold):
        await world.engine.holds.void(decision)
    return isinstance(decision, Hold)


@pytest.mark.parametrize("ahead_s", [MINUTES_20, DAY_S, -DAY_S, TO_1970])
async def test_answers_that_run_while_redis_clock_jumps_end_whole(make_world, set_redis_clock, ahead_s):
    world = await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    running = [await hold_one(world, principal) for _ in range(6)]
    await set_redis_clock(world, ahead_s)
    await world.engine.partitions.is_current(partition_of(world))
    await world.engine.recovery.sweep(partition_of(world), others=False)
    await asyncio.gather(*(settle(world, principal, hold) for hold in running[:3]))
    await set_redis_clock(world, 0)
    await world.engine.recovery.sweep(partition_of(world), others=False)
    await asyncio.gather(*(settle(world, principal, hold) for hold in running[3:]))
    await eventually(lambda: is_served(world, principal))
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == dict.fromkeys((hold.id for hold in running), 500)
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 6 * 15
    assert await world.database.value("SELECT count(*) FROM debits_set_aside") == 0


@pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S, AHEAD_S + 60, -AHEAD_S - 60])
async def test_nothing_is_admitted_while_redis_clock_is_wrong_and_everything_once_it_is_right(
    make_world, set_redis_clock, ahead_s
):
    """Windows are neither shut nor forgotten then."""
    world, other = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,), quotas=(DAY_TOKENS,))
    await spend(world, principal)
    before = await world.account_state(principal.account_id)
    await set_redis_clock(world, ahead_s)

    async def is_closed():
        return await world.link.command("HGET", world.keys.meta(0), "open") == b"0"

    async def sees_it(gateway):
        return gateway.engine.partitions.clock_difference_s > AHEAD_S

    await eventually(is_closed)
    for gateway in (world, other):
        assert isinstance(await ask_in_vain(gateway, principal), Unavailable)
        await eventually(lambda gateway=gateway: sees_it(gateway))
        assert gateway.engine.partitions.clock_difference_s <= abs(ahead_s) + LATE_S
        with pytest.raises(NotReady):
            await gateway.engine.loader.install(partition_of(gateway), principal.account_id, principal.key_id)
    await world.grants.grant(principal.account_id, 10**6, "meanwhile", None)
    await set_redis_clock(world, 0)
    for gateway in (world, other):
        await eventually(lambda gateway=gateway: is_served(gateway, principal))
    state = await world.account_state(principal.account_id)
    assert abs(state.now_s - before.now_s) < AHEAD_S
    await spend(world, principal)
    for counters in (
        (await world.account_state(principal.account_id)).counters,
        (await world.key_state(principal)).counters,
    ):
        assert [counter.taken for counter in counters] == [30]
    await assert_agreed(world, principal.account_id)
    assert world.engine.partitions.clock_difference_s < LATE_S


@pytest.mark.parametrize("ahead_s", [3000, -3000])
async def test_clocks_that_differ_by_less_than_an_hour_keep_nobody_out(make_world, set_redis_clock, ahead_s):
    world = await make_world()
    principal = await world.customer(10**9, key_quotas=(replace(DAY_TOKENS, window=Window.total),))
    await spend(world, principal)
    for step_s in (ahead_s, 0):
        await set_redis_clock(world, step_s)
        await eventually(lambda: is_served(world, principal))
        await spend(world, principal)
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 3 * 15
    await assert_agreed(world, principal.account_id)


async def test_a_minute_that_was_used_up_by_a_clock_ahead_is_over_when_the_clock_is_right(make_world, set_redis_clock):
    """And what was used by the right clock counts: in the minute that runs, and in the day."""
    world = await make_world()
    minute = Quota(Window.minute, Metric.requests, 2)
    principal = await world.customer(10**9, key_quotas=(minute, DAY_TOKENS))
    await set_redis_clock(world, 1200)
    await world.engine.partitions.is_current(partition_of(world))
    running = await hold_one(world, principal)
    await spend(world, principal)
    await set_redis_clock(world, 0)
    await world.engine.partitions.is_current(partition_of(world))
    assert isinstance(await ask(world, principal), QuotaExceeded)  # its end corrects the minute in which it counts
    await settle(world, principal, running)
    await eventually(lambda: is_served(world, principal))
    state = await world.account_state(principal.account_id)
    assert abs(state.now_s - time.time()) < 120
    await assert_agreed(world, principal.account_id)


async def test_no_epoch_opens_while_the_clocks_of_the_stores_differ(make_world, set_redis_clock):
    world = await make_world()
    principal = await world.customer(10**9)
    running = [await hold_one(world, principal), await hold_one(world, principal)]
    await set_redis_clock(world, 2 * AHEAD_S)
    await world.engine.partitions.renew(partition_of(world))
    assert not await joined(world)
    assert isinstance(await ask_in_vain(world, principal), Unavailable)
    await settle(world, principal, running[0])
    await set_redis_clock(world, 0)
    await eventually(lambda: is_served(world, principal))
    await settle(world, principal, running[1])
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == {hold.id: 500 for hold in running}


async def test_a_postgres_whose_clock_is_wrong_closes_no_epoch_and_opens_none(make_world, set_postgres_clock):
    world = await make_world()
    principal = await world.customer(10**9)
    await spend(world, principal)
    set_postgres_clock(2 * AHEAD_S)
    await world.engine.partitions.refresh_ledger()
    assert await world.engine.partitions.is_current(partition_of(world))
    await spend(world, principal)
    assert 2 * AHEAD_S - 60 < world.engine.partitions.clock_difference_s < 2 * AHEAD_S + 60
    await world.engine.partitions.renew(partition_of(world))
    assert not await joined(world)
    set_postgres_clock(0)
    await eventually(lambda: is_served(world, principal))
    await assert_agreed(world, principal.account_id)


@pytest.mark.parametrize("of", ["account", "key", "both"])
async def test_windows_in_the_future_are_renewed_from_the_ledger(world, of):
    """Windows that a wrong clock has left in a loaded state: requests are served at once, with today's usage."""
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,), quotas=(DAY_TOKENS,))
    await spend(world, principal)
    account, key = await world.account_state(principal.account_id), await world.key_state(principal)
    future_s = account.now_s + 2 * DAY_S
    ahead = (Counter(DAY_TOKENS.tag, window_id(Window.day, future_s), 999_999),)
    if of != "key":
        account = replace(account, now_s=future_s, counters=ahead)
    if of != "account":
        key = replace(key, counters=ahead)
    await world.link.command("SET", world.keys.account(principal.account_id), account.pack())
    await world.link.command("SET", world.keys.key(principal.account_id, principal.key_id), key.pack())
    running = await hold_one(world, principal, need(most=100))
    for counters in (
        (await world.account_state(principal.account_id)).counters,
        (await world.key_state(principal)).counters,
    ):
        assert [counter.taken for counter in counters] == [15 + 110]
    await settle(world, principal, running)
    await assert_agreed(world, principal.account_id)
