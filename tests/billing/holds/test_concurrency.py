"""Many requests at once, in one gateway and in three: never more than the balance or a window allows."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from ulid import ULID

from billing.holds.model import Decision, Hold, InsufficientBalance, QuotaExceeded, Unavailable
from billing.plans import Plan
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    COST_NANO,
    FIXED,
    PLANS,
    USED,
    WAIT_S,
    MakeWorld,
    World,
    debit,
    hold_request,
    need,
    open_all,
    within_one_minute,
)


async def patient(make_world: MakeWorld, count: int, plans: dict[str, Plan] = PLANS) -> list[World]:
    """Gateways that load an account one after the other, however long each takes on a busy machine: beyond the bound of
    that wait their requests would be refused as unavailable."""
    worlds = [await make_world(plans=plans) for _ in range(count)]
    for world in worlds:
        world.database.lock_wait_s = WAIT_S
    return worlds


def counted(decisions: Sequence[Decision]) -> Counter[type | Unavailable]:
    """How many decisions of each kind; one that is none for want of a store says what failed."""
    return Counter(each if isinstance(each, Unavailable) else type(each) for each in decisions)


@pytest.mark.parametrize("gateways", [1, 3])
async def test_the_balance_is_never_overspent(make_world, gateways):
    worlds = await patient(make_world, gateways)
    principal = await worlds[0].customer(50 * COST_NANO + COST_NANO - 1)
    async with AsyncExitStack() as stack:
        decisions = await open_all(worlds, principal, 200, stack)
        assert counted(decisions) == {Hold: 50, InsufficientBalance: 150}
        state = await worlds[0].account_state(principal.account_id)
        assert (state.held_nano, state.running, state.balance_nano) == (50 * COST_NANO, 50, 51 * COST_NANO - 1)
        held = [(number, hold) for number, hold in enumerate(decisions) if isinstance(hold, Hold)]
        for number, hold in held[:30]:
            spent = debit(
                hold.id, principal, admitted_at_ms=hold.admitted_at_ms, charged_nano=COST_NANO, cost_nano=COST_NANO
            )
            await worlds[number % gateways].engine.holds.settle(hold, spent)
    state = await worlds[0].account_state(principal.account_id)
    assert (state.held_nano, state.running, state.balance_nano) == (0, 0, 21 * COST_NANO - 1)
    for world in worlds:
        await world.engine.outbox.flush()
    assert await worlds[0].database.value("SELECT balance_nano FROM accounts") == 21 * COST_NANO - 1
    assert await worlds[0].database.value("SELECT count(*) FROM usage_events WHERE xseq IS NULL") == 30


async def test_elastic_holds_share_a_balance_without_overspending_it(make_world):
    worlds = await patient(make_world, 3)
    principal = await worlds[0].customer(50_000)
    async with AsyncExitStack() as stack:

        async def one(number):
            request_id = str(ULID())
            asked = need(least=16, most=4096)
            return await stack.enter_async_context(
                worlds[number % 3].engine.holds.open(hold_request(request_id, principal, asked))
            )

        decisions = await asyncio.gather(*(one(number) for number in range(60)))
        granted = [decision.granted_output for decision in decisions if isinstance(decision, Hold)]
        assert granted
        assert min(granted) >= 16
        state = await worlds[0].account_state(principal.account_id)
        assert state.held_nano == sum(1000 + 10 * tokens for tokens in granted)
        assert 50_000 - 1160 < state.held_nano <= 50_000


@pytest.mark.parametrize("subject", ["key", "plan", "account"])
async def test_no_window_of_any_metric_is_overrun(make_world, subject):
    """Each window and metric by itself, on an account of its own."""
    tightest = [
        Quota(window, metric, 5 * USED[metric] + USED[metric] - (metric is not Metric.requests))
        for window in Window
        for metric in Metric
    ]
    plans = {
        **PLANS,
        **{f"plan_{place}": Plan(f"plan_{place}", "Tight", 0, quotas=(quota,)) for place, quota in enumerate(tightest)},
    }
    worlds = await patient(make_world, 3, plans)
    for place, quota in enumerate(tightest):
        allowed = quota.limit // USED[quota.metric]
        principal = await worlds[0].customer(
            10**9,
            key_quotas=(quota,) if subject == "key" else (),
            quotas=(quota,) if subject == "account" else (),
            plan=f"plan_{place}" if subject == "plan" else "free",
        )
        await within_one_minute(worlds[0])
        async with AsyncExitStack() as stack:
            decisions = await open_all(worlds, principal, 12, stack)
            assert counted(decisions) == {Hold: allowed, QuotaExceeded: 12 - allowed}
            refused = next(decision for decision in decisions if isinstance(decision, QuotaExceeded))
            (exhausted,) = refused.exhausted
            assert (exhausted.limit.subject, exhausted.limit.quota, exhausted.requested) == (
                subject,
                quota,
                USED[quota.metric],
            )
            held = 0 if quota.metric is Metric.requests else allowed * USED[quota.metric]
            assert (exhausted.used, exhausted.held) == (allowed * USED[quota.metric] - held, held)
            assert refused.is_held == (held > 0)
            state = (
                worlds[0].key_state(principal) if subject == "key" else worlds[0].account_state(principal.account_id)
            )
            (counter,) = (await state).counters
            assert counter.taken == allowed * USED[quota.metric] <= quota.limit
        state = worlds[0].key_state(principal) if subject == "key" else worlds[0].account_state(principal.account_id)
        (counter,) = (await state).counters
        assert counter.taken == 0


@pytest.mark.parametrize("changes", [{"charged_nano": 2**70}, {"model": "\ud800"}])
async def test_a_debit_that_cannot_be_packed_harms_no_other(world, principal, changes):
    """They would have gone to Redis in one call. Its hold is given back as its request fails."""

    async def one(**need):
        request_id = str(ULID())
        async with world.engine.holds.open(hold_request(request_id, principal, FIXED)) as hold:
            assert isinstance(hold, Hold)
            await world.engine.holds.settle(
                hold, debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms, **need)
            )

    async with asyncio.timeout(WAIT_S):
        results = await asyncio.gather(one(), one(**changes), one(), return_exceptions=True)
    assert [result is None for result in results] == [True, False, True]
    assert world.engine.holds.live == {}
    state = await world.account_state(principal.account_id)
    assert (state.held_nano, state.running, state.balance_nano) == (0, 0, 10**9 - 1000)
