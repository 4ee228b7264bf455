"""Requests that only running ones keep out: who waits, in which order they go on, and what ends a wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ulid import ULID

from billing.holds.engine import EngineSettings
from billing.holds.epochs import Partition
from billing.holds.model import (
    AdmissionTarget,
    Exhausted,
    Hold,
    HoldSettings,
    InsufficientBalance,
    Need,
    QuotaExceeded,
    TooManyRunning,
)
from billing.holds.redis.layout import Keyspace
from billing.holds.wait_queue import MOST_PAUSE_S, WaitQueues
from billing.keys.secrets import secret_digest
from billing.principals import Limit, Principal, QuotaLimits
from billing.quotas import Metric, Quota, Window
from tests.support.holds import World, ask, eventually, hold_one, hold_request, need, settle

# Longer than any wait here takes.
LONG_S = 60.0
# Two holds of 110 tokens, not three.
DAILY = Quota(Window.day, Metric.tokens, 250)


async def waits(
    world: World,
    principal: Principal,
    asked: Need | None = None,
    queue_s: float = LONG_S,
    lesser: Callable[[Need], Awaitable[Any]] | None = None,
) -> object:
    """A decision that may have waited; nothing gives its hold back but the test."""
    request_id = str(ULID())
    request = hold_request(request_id, principal, asked or WHOLE, queue_s=queue_s, lesser=lesser)
    return await world.engine.holds.admissions.admit(request)


# 110 tokens and 2,000 nano-USD.
WHOLE = need(least=100, most=100)


async def waiting(world: World, count: int) -> None:
    async def are_waiting() -> bool:
        return len(world.engine.holds.queues) == count

    await eventually(are_waiting)


async def line_of(world: World, principal: Principal, count: int, **options: Any) -> "list[asyncio.Task[object]]":
    """Requests that wait, each in line before the next one comes."""
    tasks = []
    for place in range(1, count + 1):
        tasks.append(asyncio.create_task(waits(world, principal, **options)))
        await waiting(world, place)
    return tasks


async def test_they_go_on_in_order_of_arrival_as_others_end(world):
    principal = await world.customer(10**9, key_quotas=(DAILY,))
    running = [await hold_one(world, principal, WHOLE) for _ in range(2)]
    line = await line_of(world, principal, 4)
    for first in range(0, 4, 2):
        for hold in running:
            await settle(world, principal, hold, input_tokens=1, output_tokens=1)
        running = []
        for task in line[first : first + 2]:
            decision = await task
            assert isinstance(decision, Hold)
            assert decision.waited_s > 0
            running.append(decision)
        assert not any(task.done() for task in line[first + 2 :])
    for hold in running:
        await world.engine.holds.void(hold)
    (counter,) = (await world.key_state(principal)).counters
    assert (counter.used, counter.held, len(world.engine.holds.queues)) == (8, 0, 0)


async def test_who_comes_later_does_not_overtake_with_less(world):
    principal = await world.customer(10**9, key_quotas=(DAILY,))
    running = [await hold_one(world, principal, WHOLE) for _ in range(2)]
    (first,) = await line_of(world, principal, 1)
    small = asyncio.create_task(waits(world, principal, need(least=1, most=1)))  # there is room for that
    await waiting(world, 2)
    await world.engine.holds.void(running[0])
    assert isinstance(await first, Hold)
    assert isinstance(await small, Hold)


async def test_a_wait_of_one_key_or_account_keeps_no_other_waiting(world):
    principal = await world.customer(10**9, key_quotas=(DAILY,))  # what keeps it out is its key's window alone
    held = [await hold_one(world, principal, WHOLE) for _ in range(2)]
    (first,) = await line_of(world, principal, 1)
    _, secret = await world.api_keys.create(principal.account_id, "other")
    other_account = await world.customer(10**9)
    other_key = await world.engine.cache.get(secret_digest(secret))
    assert other_key is not None
    async with asyncio.timeout(LONG_S / 2):
        assert isinstance(await waits(world, other_account), Hold)
        assert isinstance(await waits(world, other_key), Hold)
    assert not first.done()
    await world.engine.holds.void(held[0])
    assert isinstance(await first, Hold)


async def test_a_line_of_one_key_s_own_keeps_no_other_key_waiting(world):
    """Those behind the first have not asked yet: they wait for what keeps the first one out, and no more is known."""
    account_id = (await world.customer(10**9)).account_id
    _, narrow = await world.api_keys.create(account_id, "narrow", max_parallel_requests=1)
    _, wide = await world.api_keys.create(account_id, "wide")
    of_narrow, of_wide = [await world.engine.cache.get(secret_digest(secret)) for secret in (narrow, wide)]
    assert of_narrow is not None
    assert of_wide is not None
    running = await hold_one(world, of_narrow)
    line = await line_of(world, of_narrow, 3)
    async with asyncio.timeout(LONG_S / 2):
        assert isinstance(await waits(world, of_wide), Hold)
    assert not any(task.done() for task in line)
    for task in line:
        await world.engine.holds.void(running)
        decision = await task
        assert isinstance(decision, Hold)
        running = decision


async def test_holds_that_other_gateways_end_are_learnt_of(make_world):
    world, other = await make_world(), await make_world()
    principal = await world.customer(2000)
    running = await hold_one(other, principal, WHOLE)
    (task,) = await line_of(world, principal, 1)
    began_s = asyncio.get_running_loop().time()
    await other.engine.holds.void(running)
    assert isinstance(await task, Hold)
    assert asyncio.get_running_loop().time() - began_s < MOST_PAUSE_S + LONG_S / 2


async def test_a_wait_ends_at_its_time_with_the_refusal(world):
    principal = await world.customer(2000)
    await hold_one(world, principal, WHOLE)
    decision = await waits(world, principal, queue_s=0.2)
    assert decision == InsufficientBalance(0, 2000, 2000)
    assert decision.is_held
    assert await waits(world, principal, queue_s=0.0) == decision
    assert len(world.engine.holds.queues) == 0


async def test_who_would_not_fit_even_if_nothing_ran_does_not_wait(world):
    principal = await world.customer(2000, key_quotas=(Quota(Window.day, Metric.tokens, 500),))
    await hold_one(world, principal, need(unit_nano=0, least=400, most=400))
    refused = await waits(world, principal, need(unit_nano=0, least=500, most=500))
    assert isinstance(refused, QuotaExceeded)
    assert not refused.is_held
    assert refused.fitting_output == 500 - 410 - 10
    refused = await waits(world, principal, need(unit_nano=20, least=100, most=100))
    assert isinstance(refused, InsufficientBalance)
    assert not refused.is_held
    # The balance is only held, the window is spent: it is the window that is named.
    refused = await waits(world, principal, need(input_cost_nano=1500, unit_nano=0, least=491, most=491))
    assert isinstance(refused, QuotaExceeded)
    assert not refused.is_held


async def test_who_asks_for_more_than_a_whole_limit_waits_behind_nobody(world):
    principal = await world.customer(10**9, key_quotas=(DAILY,))
    running = [await hold_one(world, principal, WHOLE) for _ in range(2)]
    (first,) = await line_of(world, principal, 1)
    async with asyncio.timeout(LONG_S / 2):
        refused = await waits(world, principal, need(least=241, most=241))  # 251 tokens of 250
    assert isinstance(refused, QuotaExceeded)
    assert (refused.is_held, refused.exhausted[0].never_fits, refused.fitting_ever) == (False, True, 240)
    assert not first.done()
    for hold in running:
        await world.engine.holds.void(hold)
    assert isinstance(await first, Hold)


@given(
    st.builds(
        lambda tokens, cost, unit, choices, least, more: Need(tokens, cost, unit, choices, least, least + more),
        *[st.integers(0, 300)] * 3,
        st.integers(1, 3),
        *[st.integers(0, 60)] * 2,
    ),
    st.lists(st.tuples(st.sampled_from(Metric), st.integers(0, 600)), max_size=4),
)
def test_what_ever_fits_is_what_empty_counters_would_take(asked, given_limits):
    limits = tuple(Limit("key", Quota(Window.day, metric, limit)) for metric, limit in given_limits)
    needed = {
        Metric.requests: 1,
        Metric.tokens: asked.input_tokens + asked.choices * asked.least_output,
        Metric.input_tokens: asked.input_tokens,
        Metric.output_tokens: asked.choices * asked.least_output,
        Metric.cost: asked.input_cost_nano + asked.unit_nano * asked.least_output,
    }
    fits = all(Exhausted(each, 0, 0, needed[each.quota.metric]).is_held for each in limits)
    assert asked.ever_fits(QuotaLimits((), limits, b"", ())) is fits


async def test_requests_that_run_are_used_and_not_waited_for(world):
    """The end of a request gives none of its window's requests back."""
    principal = await world.customer(10**9, key_quotas=(Quota(Window.day, Metric.requests, 1),))
    hold = await hold_one(world, principal)
    refused = await waits(world, principal)
    assert isinstance(refused, QuotaExceeded)
    assert (refused.is_held, refused.exhausted[0].used, refused.exhausted[0].held) == (False, 1, 0)
    await world.engine.holds.void(hold)
    assert isinstance(await waits(world, principal), Hold)


async def test_places_of_parallel_requests_are_waited_for(world):
    _, secret = await world.api_keys.create((await world.customer()).account_id, "narrow", max_parallel_requests=1)
    principal = await world.engine.cache.get(secret_digest(secret))
    assert principal is not None
    hold = await hold_one(world, principal)
    assert await ask(world, principal) == TooManyRunning("key")
    (task,) = await line_of(world, principal, 1)
    await settle(world, principal, hold)
    assert isinstance(await task, Hold)


async def test_who_leaves_is_gone_from_the_line_and_the_next_goes_on(world):
    principal = await world.customer(2000)
    hold = await hold_one(world, principal, WHOLE)
    line = await line_of(world, principal, 3)
    line[0].cancel()
    await asyncio.gather(line[0], return_exceptions=True)
    await waiting(world, 2)
    await world.engine.holds.void(hold)
    got = await line[1]
    assert isinstance(got, Hold)
    await world.engine.holds.void(got)
    assert isinstance(await line[2], Hold)


async def test_no_more_wait_than_may(make_world):
    world = await make_world(EngineSettings(holds=HoldSettings(redis_timeout_s=20.0, queue_requests=2)))
    principal, other = await world.customer(2000), await world.customer(2000)
    await hold_one(world, principal, WHOLE)
    await hold_one(world, other, WHOLE)
    line = await line_of(world, principal, 2)
    assert isinstance(await waits(world, principal), InsufficientBalance)
    line.append(asyncio.create_task(waits(world, other)))
    await waiting(world, 3)
    world.engine.holds.queues.close()
    assert {type(await task) for task in line} == {InsufficientBalance}


async def test_the_process_that_stops_ends_all_waits(world):
    principal = await world.customer(2000)
    await hold_one(world, principal, WHOLE)
    line = await line_of(world, principal, 3)
    world.engine.holds.queues.close()
    assert [type(await task) for task in line] == [InsufficientBalance] * 3
    assert isinstance(await waits(world, principal), InsufficientBalance)
    assert len(world.engine.holds.queues) == 0


async def test_a_lesser_need_is_asked_for_where_the_first_does_not_fit(world):
    principal = await world.customer(2000)

    async def lesser(_):
        return need(least=10, most=10), b""

    hold = await waits(world, principal, need(least=200, most=200), lesser=lesser)
    assert isinstance(hold, Hold)
    assert hold.cost_nano == 1100
    task = asyncio.create_task(waits(world, principal, need(least=100, most=100), lesser=lesser))
    await waiting(world, 1)  # for the lesser one, too
    await world.engine.holds.void(hold)
    hold = await task
    assert isinstance(hold, Hold)
    assert hold.cost_nano == 1100


# The line by itself


def place(key: int, quotas: tuple[Quota, ...]) -> AdmissionTarget:
    """A request's place, of one account."""
    made = AdmissionTarget.__new__(AdmissionTarget)
    made.account_key, made.key_key, made.partition = b"account", b"key%d" % key, Partition(0, Keyspace())
    made.limits = QuotaLimits((), tuple(Limit("key", quota) for quota in quotas), b"", ())
    return made


@given(
    wants=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.booleans()), min_size=1, max_size=12),
    seed=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_nobody_overtakes_whoever_waits_for_the_same(wants, seed):
    """Requests of three keys, each with a window of 5; some leave while they wait. Who waits for a key's window is
    admitted in order of arrival, nobody asks while an earlier one does, and everybody gets through or leaves."""

    async def story():
        queue, free, admitted, asking = WaitQueues(100), [5, 5, 5], [], 0
        quota = Quota(Window.day, Metric.tokens, 5)
        loop = asyncio.get_running_loop()

        async def request(number, key, amount):
            nonlocal asking
            here = place(key, (quota,))

            async def redis():
                nonlocal asking
                asking += 1
                assert asking == 1
                try:
                    await asyncio.sleep(0)
                finally:
                    asking -= 1
                if free[key] < amount:
                    return False
                free[key] -= amount
                return True

            waiter = queue.join(here, None)
            assert waiter is not None
            got = False
            try:
                while not got:
                    assert await queue.wait(waiter, loop.time() + LONG_S)
                    got = await redis()
                    if not got:
                        waiter.refused(QuotaExceeded((Exhausted(Limit("key", quota), 0, 5, amount),), 0))
                admitted.append((key, number))
            finally:
                queue.leave(waiter, admitted=got)
            try:
                await asyncio.sleep(0)
            finally:
                free[key] += amount
                queue.freed(b"account")

        tasks = [asyncio.create_task(request(n, key, amount)) for n, (key, amount, _) in enumerate(wants)]
        leaving = [task for task, (_, _, leaves) in zip(tasks, wants, strict=True) if leaves]
        for task in leaving:
            for _ in range(seed.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [error for error in ended if error is not None and not isinstance(error, asyncio.CancelledError)]
        for key in range(3):
            order = [number for of, number in admitted if of == key]
            assert order == sorted(order)
        assert len(queue) == 0
        stayed = {n for n, (_, _, leaves) in enumerate(wants) if not leaves}
        assert stayed <= {number for _, number in admitted}

    asyncio.run(story())
