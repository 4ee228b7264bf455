"""Needs with a ladder of inputs, on the real stores: the dearest rung that fits, and adds no more than the elastic
share of what is free, is held, and given back whole."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ulid import ULID

from billing.holds.model import Hold, InsufficientBalance, Need, NeedTooLarge, QuotaExceeded
from billing.holds.redis.layout import HELD
from billing.keys.secrets import secret_digest
from billing.money import MAX_NANO
from billing.principals import Principal
from billing.quotas import MAX_TOOL_CALLS, Metric, Quota, Window
from tests.support.holds import (
    PATIENT,
    WAIT_S,
    MakeWorld,
    World,
    ask,
    assert_agreed,
    delete,
    entries,
    hold_one,
    hold_request,
    keys_in_redis,
    partition_of,
    settle,
    within_one_minute,
)

UNIT_NANO = 10
# What further calls add to the first input may be this part of what is free: `elastic_share`.
PART = 4
# `elastic_output_tokens`, for which every rung but the first leaves room.
FIRST_OUTPUT = 4096


ELASTIC = replace(PATIENT, holds=replace(PATIENT.holds, elastic_millionths=250_000, elastic_output_tokens=FIRST_OUTPUT))


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    """As a gateway is by default."""
    return await make_world(ELASTIC)


def laddered(calls: int, *, least: int = 16, most: int = 10_000) -> Need:
    """100 tokens and 1,000 nano-USD for one call, and as much again for each further one."""
    rungs = tuple((100 * each, 1000 * each) for each in range(2, calls + 1))
    return Need(100, 1000, UNIT_NANO, 1, least, most, rungs)


async def cost_and_tokens(world: World, principal: Principal) -> tuple[int, int, int]:
    """What the only entry of the journal holds."""
    (entry,) = [each for each in (await entries(world, principal.account_id)).values() if each.state == HELD]
    return entry.cost_nano, entry.input_tokens, entry.output_tokens


@pytest.mark.parametrize(
    ("balance_nano", "calls", "output"),
    [
        (10**9, 8, 10_000),
        (1000 + 7000 * PART + FIRST_OUTPUT * UNIT_NANO, 8, FIRST_OUTPUT),
        (1000 + 7000 * PART + FIRST_OUTPUT * UNIT_NANO - 1, 7, FIRST_OUTPUT),
        (1000 + 1000 * PART + FIRST_OUTPUT * UNIT_NANO, 2, FIRST_OUTPUT),
        (1000 + 1000 * PART + FIRST_OUTPUT * UNIT_NANO - 1, 1, FIRST_OUTPUT),
        (1000 + 16 * UNIT_NANO, 1, 16),
    ],
)
async def test_a_balance_grants_as_many_calls_as_leave_room_for_output(world, balance_nano, calls, output):
    principal = await world.customer(balance_nano)
    hold = await hold_one(world, principal, laddered(8))
    assert (hold.granted_calls, hold.granted_output) == (calls, output)
    cost_nano = 1000 * calls + UNIT_NANO * hold.granted_output
    assert (hold.cost_nano, hold.need.input_tokens, hold.need.ladder) == (cost_nano, 100 * calls, ())
    assert await cost_and_tokens(world, principal) == (cost_nano, 100 * calls, hold.granted_output)
    state = await world.account_state(principal.account_id)
    assert (state.held_nano, hold.available_nano) == (cost_nano, balance_nano - cost_nano)
    await world.engine.holds.void(hold)
    assert (await world.account_state(principal.account_id)).held_nano == 0


async def test_one_that_is_too_small_for_one_call_is_refused_as_ever(world):
    principal = await world.customer(1159)
    refused = await ask(world, principal, laddered(8))
    assert refused == InsufficientBalance(1159, 1160, 0, 15)


async def test_a_named_maximum_is_left_room_for_whole(world):
    """What the client asks for is not cut; a further call is granted beside it alone."""
    principal = await world.customer(1000 + 2000 * PART + 5000 * UNIT_NANO)
    hold = await hold_one(world, principal, laddered(8, least=5000, most=5000))
    assert (hold.granted_calls, hold.granted_output) == (3, 5000)
    small = await hold_one(
        world, await world.customer(1000 + 7000 * PART + 50 * UNIT_NANO), laddered(8, least=50, most=50)
    )
    assert (small.granted_calls, small.granted_output) == (8, 50)


@pytest.mark.parametrize("subject", ["key", "account", "user"])
@pytest.mark.parametrize(
    ("metric", "limit", "calls"),
    [
        (Metric.tokens, 100 + 200 * PART + 50, 3),
        (Metric.tokens, 100 + 200 * PART + 49, 2),
        (Metric.input_tokens, 100 + 400 * PART, 5),
        (Metric.output_tokens, 50, 8),
        (Metric.cost, 1000 + 3000 * PART + 50 * UNIT_NANO, 4),
        (Metric.requests, 1, 8),
    ],
)
async def test_every_window_bounds_the_calls(world, subject, metric, limit, calls):
    quota = Quota(Window.total, metric, limit)
    if subject == "user":
        account = (await world.customer(10**9)).account_id
        await world.member_limits.set(account, "usr_ana", (quota,))
        _, secret = await world.api_keys.create(account, "test", user_id="usr_ana")
        principal = await world.engine.cache.get(secret_digest(secret))
        assert principal is not None
    else:
        named = {"key_quotas": (quota,)} if subject == "key" else {"quotas": (quota,)}
        principal = await world.customer(10**9, **named)
    hold = await hold_one(world, principal, laddered(8, least=50, most=50))
    assert hold.granted_calls == calls
    assert await cost_and_tokens(world, principal) == (1000 * calls + 500, 100 * calls, 50)
    await settle(world, principal, hold)
    await assert_agreed(world, principal.account_id)


async def test_a_window_too_small_for_one_call_says_what_one_needs(world):
    principal = await world.customer(10**9, key_quotas=(Quota(Window.total, Metric.tokens, 149),))
    refused = await ask(world, principal, laddered(8, least=50, most=50))
    assert isinstance(refused, QuotaExceeded)
    assert [each.requested for each in refused.exhausted] == [150]


async def test_a_new_epoch_holds_what_was_granted(make_world):
    world = await make_world()
    quotas = (Quota(Window.total, Metric.tokens, 10**6),)
    principal = await world.customer(10**9, quotas=quotas)
    hold = await hold_one(world, principal, laddered(5, least=50, most=50))
    epoch = partition_of(world).epoch or 0
    await delete(world, *await keys_in_redis(world))
    other = await hold_one(world, principal, laddered(3, least=50, most=50))
    assert partition_of(world).epoch == epoch + 1
    state = await world.account_state(principal.account_id)
    assert (state.held_nano, state.counters[0].taken) == (5500 + 3500, 550 + 350)
    await settle(world, principal, hold)
    await world.engine.holds.void(other)
    await assert_agreed(world, principal.account_id)


CALL_NANO, CALL_TOKENS, OUTPUT = 1000, 100, 200


@pytest.mark.parametrize("gateways", [1, 3])
async def test_a_provider_that_uses_every_call_never_overspends(make_world, gateways):
    """Everybody asks at once, and each provider uses all that was granted: no balance or window is exceeded."""
    worlds = [await make_world(ELASTIC) for _ in range(gateways)]
    for world in worlds:
        world.database.lock_wait_s = WAIT_S
    limit = Quota(Window.day, Metric.tokens, 40_000)
    balance_nano = 154 * CALL_NANO
    principal = await worlds[0].customer(balance_nano, quotas=(limit,))
    await within_one_minute(worlds[0])

    async def one(number):
        world, request_id = worlds[number % gateways], str(ULID())
        asked = laddered(8, least=16, most=OUTPUT)
        opening = world.engine.holds.open(hold_request(request_id, principal, asked))
        async with opening as hold:
            if not isinstance(hold, Hold):
                return 0
            await asyncio.sleep(0)
            cost_nano = CALL_NANO * hold.granted_calls + UNIT_NANO * hold.granted_output
            await settle(
                world,
                principal,
                hold,
                charged_nano=cost_nano,
                cost_nano=cost_nano,
                input_tokens=CALL_TOKENS * hold.granted_calls,
                output_tokens=hold.granted_output,
            )
            return hold.granted_calls

    calls = [each for batch in range(4) for each in await asyncio.gather(*(one(n + batch) for n in range(40)))]
    granted = [each for each in calls if each]
    assert max(granted) == 8
    assert min(granted) < 8  # ever fewer, as less is free
    state = await worlds[0].account_state(principal.account_id)
    assert state.held_nano == 0
    assert 0 <= state.balance_nano < CALL_NANO + 16 * UNIT_NANO
    assert state.counters[0].taken <= limit.limit


rungs = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5000)), max_size=5)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=rungs, free_tokens=st.integers(0, 4000), free_nano=st.integers(0, 60_000), most=st.integers(16, 300))
async def test_the_largest_number_of_calls_that_fits_is_granted(world, steps, free_tokens, free_nano, most):
    """By a model of one line: the dearest rung beside which the output fits, and that adds no more than the share."""
    inputs = [(100, 1000)]
    for tokens, nano in steps:
        inputs.append((inputs[-1][0] + tokens, inputs[-1][1] + nano))
    asked = Need(100, 1000, UNIT_NANO, 1, 16, most, tuple(inputs[1:]))
    principal = await world.customer(free_nano, quotas=(Quota(Window.total, Metric.tokens, free_tokens),))
    needed = [16, *[min(FIRST_OUTPUT, most)] * len(steps)]
    fitting = [
        place + 1
        for place, ((tokens, nano), output) in enumerate(zip(inputs, needed, strict=True))
        if 100 + PART * (tokens - 100) + output <= free_tokens
        and 1000 + PART * (nano - 1000) + output * UNIT_NANO <= free_nano
    ]
    decision = await ask(world, principal, asked)
    if not fitting:
        assert not isinstance(decision, Hold)
        return
    assert isinstance(decision, Hold)
    assert decision.granted_calls == max(fitting)
    tokens, nano = inputs[max(fitting) - 1]
    assert (decision.need.input_tokens, decision.cost_nano) == (tokens, nano + UNIT_NANO * decision.granted_output)
    await world.engine.holds.void(decision)


def test_a_ladder_is_bounded_and_rises():
    for bad in (((99, 1000),), ((100, 999),), ((200, 2000), (150, 3000))):
        with pytest.raises(ValueError, match="smaller"):
            Need(100, 1000, 1, 1, 1, 1, bad)
    with pytest.raises(ValueError, match="at most"):
        Need(1, 1, 1, 1, 1, 1, tuple((each, each) for each in range(2, MAX_TOOL_CALLS + 2)))
    for rung in ((MAX_NANO, 1000), (100, MAX_NANO)):
        with pytest.raises(NeedTooLarge):
            Need(100, 1000, 1, 1, 1, 1, (rung,))
    assert laddered(3).with_calls(1) == laddered(1)
    assert laddered(3).with_calls(3).input_tokens == 300
