"""Quotas of a user: counted over all of the user's keys in the account, and over no other's, whatever happens."""

import random
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ulid import ULID

from billing.errors import Unreadable
from billing.holds import recovery
from billing.holds.model import Hold, QuotaExceeded
from billing.holds.reconcile import Drift
from billing.holds.redis.layout import OF_USER, VERSION, Entry, KeyState
from billing.keys.secrets import secret_digest
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    EVERY_WINDOW,
    LONG,
    USED,
    Key,
    World,
    ask,
    assert_agreed,
    by_hand,
    debit,
    debits,
    delete,
    direct,
    entries,
    eventually,
    hold_one,
    hold_request,
    key_of,
    keys_in_redis,
    kill,
    need,
    open_all,
    partition_of,
    renew_leases,
    seen_from,
    settle,
    spend,
    sweep_by_hand,
    used,
    within_one_minute,
)

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)
ANA, BEN = "usr_ana", "usr_ben"


async def user_state(world: World, account_id: str, user_id: str = ANA) -> KeyState:
    state = await world.engine.redis.user(account_id, user_id)
    assert state is not None
    return state


async def taken(world: World, account_id: str, user_id: str = ANA) -> list[int]:
    return [counter.taken for counter in (await user_state(world, account_id, user_id)).counters]


async def test_all_keys_of_a_user_share_every_window_of_every_metric_and_no_other_key_does(
    make_world,
):
    """Asked for in three gateways at once."""
    worlds = [await make_world() for _ in range(3)]
    world = worlds[0]
    account = (await world.customer(10**9)).account_id
    others = [await key_of(world, account, BEN), await key_of(world, account, None)]
    for place, (window, metric) in enumerate((window, metric) for window in Window for metric in Metric):
        user_id, quota = f"usr_{place}", Quota(window, metric, 5 * USED[metric] + USED[metric] - (metric > 0))
        allowed = quota.limit // USED[metric]
        await world.member_limits.set(account, user_id, (quota,))
        mine = [await (await key_of(world, account, user_id)).principal(world) for _ in range(2)]
        await within_one_minute(world)
        async with AsyncExitStack() as stack:
            decisions = [
                *await open_all(worlds, mine[0], 4, stack),
                *await open_all(worlds, mine[1], 8, stack),
            ]
            assert Counter(map(type, decisions)) == {Hold: allowed, QuotaExceeded: 12 - allowed}
            refused = next(each for each in decisions if isinstance(each, QuotaExceeded))
            (exhausted,) = refused.exhausted
            assert (exhausted.limit.subject, exhausted.limit.quota) == ("user", quota)
            assert exhausted.used + exhausted.held == allowed * USED[metric]
            assert refused.is_held == (metric is not Metric.requests)
            for other in others:
                (decision,) = await open_all(worlds, await other.principal(world), 1, stack)
                assert isinstance(decision, Hold)
            assert await taken(world, account, user_id) == [allowed * USED[metric]]
        assert await taken(world, account, user_id) == [0]
    assert await world.engine.redis.user(account, BEN) is None, "who has no limits has no state"


async def test_an_elastic_hold_takes_of_what_the_user_has_left(world):
    account = (await world.customer(10**12)).account_id
    first, second = [await key_of(world, account, ANA) for _ in range(2)]
    await world.member_limits.set(account, ANA, (Quota(Window.day, Metric.tokens, 1000),))
    asked = need(least=16, most=100_000)
    hold = await hold_one(world, await first.principal(world), asked)
    assert hold.granted_output == 990, "the first tokens, but no more than there are"
    principal = await second.principal(world)
    refused = await ask(world, principal, asked)
    assert isinstance(refused, QuotaExceeded)
    assert (refused.is_held, refused.exhausted[0].held) == (True, 1000)
    await settle(world, principal, hold)
    assert (await hold_one(world, principal, asked)).granted_output == 1000 - 15 - 10


async def test_holds_of_a_user_are_known_as_such_and_others_as_they_always_were(world):
    account = (await world.customer(10**9)).account_id
    await world.member_limits.set(account, ANA, (DAY_TOKENS,))
    mine, other = await key_of(world, account, ANA), await key_of(world, account, BEN)
    holds = [await hold_one(world, await each.principal(world)) for each in (mine, other)]
    journal = await world.journal(account)
    assert [journal[hold.id_bytes][0] for hold in holds] == [OF_USER, VERSION]
    assert [entry.user_tags for entry in (await entries(world, account)).values()].count(None) == 1


async def test_limits_that_come_in_the_middle_of_everything_count_each_request_once(make_world):
    """Requests of two keys, of two gateways, settled, running, voided; their own ends know of no user."""
    world, other = await make_world(), await make_world()
    account = (await world.customer(10**9)).account_id
    keys = [await key_of(world, account, ANA) for _ in range(2)]
    first, second = [await key.principal(world) for key in keys]
    stranger = await (await key_of(world, account, BEN)).principal(world)
    holds = [
        *[await hold_one(world, first) for _ in range(20)],
        *[await hold_one(other, second) for _ in range(20)],
    ]
    of_others = [await hold_one(world, stranger) for _ in range(5)]
    for hold in holds[:5]:
        await settle(world, first, hold)
    known = [await direct(world, first)]
    quotas = (
        *EVERY_WINDOW,
        Quota(Window.total, Metric.tokens, 10**12, "de*"),
        Quota(Window.day, Metric.tokens, 9, "x"),
    )
    await world.member_limits.set(account, ANA, quotas)
    holds.append(await hold_one(other, await keys[1].principal(other)))
    await other.engine.corrections.sync(partition_of(other), account)
    now_s = partition_of(world).now_ms() // 1000

    def expected(settled):
        whole = {"output_tokens": 100, "cost_nano": 2000, "charged_nano": 2000}
        ended, running = seen_from(holds[:settled], first), seen_from(holds[settled:], first, **whole)
        return {quota.tag: used(quota, [*ended, *running, *known], now_s) for quota in quotas}

    async def found():
        return {counter.tag: counter.taken for counter in (await user_state(world, account)).counters}

    long = {quota.tag for quota in quotas if quota.window in (Window.month, Window.total)}
    assert {tag: at for tag, at in (await found()).items() if tag in long} == {
        tag: at for tag, at in expected(5).items() if tag in long
    }
    for hold in holds[5:20]:
        await settle(world, first, hold)
    for hold in holds[20:30]:
        await settle(other, second, hold)
    for each in (world, other):
        await each.engine.outbox.flush()
        await each.engine.holds.drain(20.0)
        await each.engine.corrections.sync(partition_of(each), account)
    assert {tag: at for tag, at in (await found()).items() if tag in long} == {
        tag: at for tag, at in expected(30).items() if tag in long
    }
    assert (await world.engine.reconciler.run()).drifts == ()
    for hold in holds[30:]:
        await other.engine.holds.void(hold)
    for hold in of_others:
        await settle(world, stranger, hold)
    del holds[30:]
    await assert_agreed(world, account)
    assert {tag: at for tag, at in (await found()).items() if tag in long} == {
        tag: at for tag, at in expected(30).items() if tag in long
    }


@pytest.mark.parametrize("lost", ["everything", "the user"])
async def test_what_is_lost_is_counted_again(make_world, lost):
    world, other = await make_world(), await make_world()
    account = (await world.customer(10**9)).account_id
    keys = [await key_of(world, account, ANA) for _ in range(2)]
    await world.member_limits.set(account, ANA, LONG)
    stranger = await (await key_of(world, account, BEN)).principal(world)
    first, second = [await key.principal(world) for key in keys]
    await spend(world, first)
    await spend(other, second)
    await spend(other, stranger)
    running = [await hold_one(world, first), await hold_one(other, second), await hold_one(world, stranger)]
    before = await taken(world, account)
    assert before == [4, 250, 40, 210, 5000] * 2
    if lost == "everything":
        await delete(world, *await keys_in_redis(world))
    else:
        await delete(world, world.keys.user(account, ANA))
    running.append(await hold_one(other, second))
    assert await taken(world, account) == [5, 360, 50, 310, 7000] * 2
    assert (await world.engine.reconciler.run()).drifts == ()
    gateways, principals = (world, other, world, other), (first, second, stranger, second)
    for gateway, principal, hold in zip(gateways, principals, running, strict=True):
        await settle(gateway, principal, hold)
    await assert_agreed(world, account)
    assert await taken(world, account) == [5, 75, 50, 25, 2500] * 2


async def test_reconcile_names_what_a_user_drifts_by_and_mends_it(world):
    account = (await world.customer(10**9)).account_id
    key = await key_of(world, account, ANA)
    await world.member_limits.set(account, ANA, (DAY_TOKENS,))
    principal = await key.principal(world)
    await spend(world, principal)
    running = await hold_one(world, principal)
    assert (await world.engine.reconciler.run()).drifts == ()
    state = await user_state(world, account)
    (counter,) = state.counters
    wrong = replace(state, counters=(replace(counter, used=counter.used - 3, held=counter.held + 4),))
    await world.link.command("SET", world.keys.user(account, ANA), wrong.pack())
    assert set((await world.engine.reconciler.run()).drifts) == {
        Drift(account, f"{ANA} day:tokens", 12, 15),
        Drift(account, f"{ANA} day:tokens held", 114, 110),
    }
    await world.engine.reconciler.fix()
    await spend(world, principal)
    assert (await world.engine.reconciler.run()).drifts == ()
    assert await taken(world, account) == [30 + 110]
    await settle(world, principal, running)
    await assert_agreed(world, account)


async def test_a_change_is_in_force_in_other_gateways_and_what_was_used_before_counts(make_world):
    world, other = await make_world(), await make_world()
    account = (await world.customer(10**9)).account_id
    key = await key_of(world, account, ANA)
    await spend(other, await key.principal(other))
    await world.member_limits.set(account, ANA, (Quota(Window.total, Metric.tokens, 20),))

    async def is_told():
        return bool((await key.principal(other)).user_quotas)

    await eventually(is_told)
    refused = await ask(other, await key.principal(other))
    assert isinstance(refused, QuotaExceeded)
    assert refused.exhausted[0].used == 15
    await world.member_limits.set(account, ANA, ())

    async def is_free():
        return not (await key.principal(other)).user_quotas

    await eventually(is_free)
    await spend(other, await key.principal(other))
    await world.member_limits.set(account, ANA, (Quota(Window.total, Metric.tokens, 1000),))
    await eventually(is_told)
    await spend(other, await key.principal(other))
    await assert_agreed(other, account)
    assert await taken(other, account) == [45], "also what was used while there was no limit"


async def test_a_request_by_an_old_principal_is_not_admitted(world):
    """It would not count for the user."""
    account = (await world.customer(10**9)).account_id
    key = await key_of(world, account, ANA)
    old = await key.principal(world)
    await spend(world, old)
    await world.member_limits.set(account, ANA, (Quota(Window.total, Metric.tokens, 20),))
    request_id = str(ULID())
    expired = debit(request_id, old)
    decision = await world.engine.holds.admissions.admit(hold_request(request_id, old, need(), expired))
    assert type(decision).__name__ == "Reload"


async def test_other_changes_of_the_account_keep_what_its_users_have_used(world):
    account = (await world.customer(10**9)).account_id
    key = await key_of(world, account, ANA)
    await world.member_limits.set(account, ANA, (DAY_TOKENS,))
    await spend(world, await key.principal(world))
    running = await hold_one(world, await key.principal(world))
    await world.accounts.update(account, credit_limit_nano=5, quotas=LONG)
    await world.member_limits.set(account, BEN, (DAY_TOKENS,))
    await spend(world, await key.principal(world))
    assert await taken(world, account) == [30 + 110]
    month_cost = Quota(Window.month, Metric.cost, 10**9)
    await world.member_limits.set(account, ANA, (DAY_TOKENS, month_cost))
    await spend(world, await key.principal(world))
    assert await taken(world, account) == [45 + 110, 1500 + 2000]
    await settle(world, await key.principal(world), running)
    assert await taken(world, account) == [60, 2000]
    await assert_agreed(world, account)


async def test_a_dead_gateway_s_holds_are_given_back_to_the_user(make_world, monkeypatch):
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", -60_000)
    monkeypatch.setattr(recovery, "ORPHAN_AGE_MS", -60_000)
    dead, world = await make_world(), await make_world()
    account = (await dead.customer(10**9)).account_id
    keys = [await key_of(dead, account, ANA) for _ in range(2)]
    early = await hold_one(dead, await keys[0].principal(dead))
    await dead.member_limits.set(account, ANA, (DAY_TOKENS,))
    await hold_one(dead, await keys[1].principal(dead))
    assert await taken(world, account) == [220]
    await sweep_by_hand(world)
    orphan = await hold_one(world, await keys[0].principal(world))
    world.engine.holds.live.pop(orphan.id)
    await kill(dead)
    await renew_leases(world)
    swept = await world.engine.recovery.sweep(partition_of(world))
    assert (swept.expired, swept.voided) == (2, 1)
    assert early.id not in await entries(world, account)

    async def is_free():
        return await taken(world, account) == [0]

    await eventually(is_free)
    await assert_agreed(world, account)


async def test_a_hold_that_is_held_again_late_counts_for_its_user(world):
    """By a gateway that comes back when the user is loaded already."""
    await by_hand(world)
    account = (await world.customer(10**9)).account_id
    key = await key_of(world, account, ANA)
    await world.member_limits.set(account, ANA, (DAY_TOKENS,))
    principal = await key.principal(world)
    late = await hold_one(world, principal)
    stalled = world.engine.holds.live.pop(late.id)
    await delete(world, *await keys_in_redis(world))
    await spend(world, principal)
    assert await taken(world, account) == [15]
    partition = partition_of(world)
    start = world.engine.epoch_start
    assert await start._hold_again(partition, [stalled], partition.epoch or 0, {}, set())
    assert await taken(world, account) == [15 + 110]
    world.engine.holds.live[late.id] = stalled
    await settle(world, principal, stalled)
    assert await taken(world, account) == [30]
    await assert_agreed(world, account)


async def test_yesterday_s_use_is_none_of_today_s(world):
    account = (await world.customer(10**9)).account_id
    key = await key_of(world, account, ANA)
    await world.member_limits.set(account, ANA, (DAY_TOKENS, Quota(Window.total, Metric.tokens, 10**6)))
    principal = await key.principal(world)
    await spend(world, principal)
    state = await user_state(world, account)
    earlier = replace(state.counters[0], window_id=state.counters[0].window_id - 1)
    await world.link.command(
        "SET", world.keys.user(account, ANA), replace(state, counters=(earlier, state.counters[1])).pack()
    )
    await spend(world, principal)
    assert await taken(world, account) == [15, 30]


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_a_user_has_used_what_its_keys_have(make_world, seed):
    """Requests of two users and of nobody, in two gateways, while limits come, change and go, states are lost and
    epochs begin: what Redis has is what this test has counted, and what the ledger says."""
    chosen = random.Random(seed)  # noqa: S311
    worlds = [await make_world() for _ in range(2)]
    account = (await worlds[0].customer(10**12)).account_id
    users = {ANA: LONG, BEN: LONG[:3]}
    keys = [await key_of(worlds[0], account, user_id) for user_id in (ANA, ANA, BEN, None)]
    limited = set()
    open_holds = []
    ended = []

    async def renewed(world, key):
        """Read the principal again, as a gateway does that is told that it has changed."""
        found = await world.engine.cache.reload(secret_digest(key.secret))
        assert found is not None
        return found

    async def begin(world):
        key = chosen.choice(keys)
        principal = await renewed(world, key)
        open_holds.append((world, principal, await hold_one(world, principal)))

    async def end(world):
        if not open_holds:
            return
        gateway, principal, hold = open_holds.pop(chosen.randrange(len(open_holds)))
        if chosen.random() < 0.3:
            await gateway.engine.holds.void(hold)
            return
        await settle(gateway, principal, hold)
        ended.extend(seen_from([hold], principal))

    async def owe(world):
        ended.append(await direct(world, await renewed(world, chosen.choice(keys))))

    async def limit(world):
        user_id = chosen.choice(list(users))
        wanted = () if user_id in limited and chosen.random() < 0.4 else users[user_id][: chosen.randint(1, 9)]
        await world.member_limits.set(account, user_id, wanted)
        limited.add(user_id) if wanted else limited.discard(user_id)

    async def change(world):
        await world.accounts.update(account, credit_limit_nano=chosen.randrange(10**6))

    async def lose(world):
        if chosen.random() < 0.5:
            await delete(world, world.keys.user(account, ANA))
        elif chosen.random() < 0.5:
            await delete(world, *await keys_in_redis(world))
        else:
            await world.engine.reconciler.fix()

    steps, weights = (begin, end, owe, limit, change, lose), (40, 30, 6, 12, 6, 6)
    for step in chosen.choices(steps, weights, k=60):
        await step(chosen.choice(worlds))
    for user_id in sorted(users):
        await worlds[0].member_limits.set(account, user_id, users[user_id])
    for key in (keys[0], keys[2]):
        principal = await renewed(worlds[0], key)
        open_holds.append((worlds[0], principal, await hold_one(worlds[0], principal)))
    for world in worlds:
        await world.engine.holds.drain(20.0)
        await world.engine.corrections.sync(partition_of(world), account)
    assert (await worlds[0].engine.reconciler.run()).drifts == ()
    whole = {"output_tokens": 100, "cost_nano": 2000, "charged_nano": 2000}
    running = [each for _, principal, hold in open_holds for each in seen_from([hold], principal, **whole)]
    now_s = partition_of(worlds[0]).now_ms() // 1000
    for user_id, quotas in users.items():
        mine = [each for each in [*ended, *running] if each.user_id == user_id]
        assert await taken(worlds[0], account, user_id) == [used(quota, mine, now_s) for quota in quotas], user_id
    while open_holds:
        await end(worlds[0])
    await assert_agreed(worlds[0], account)
    for user_id, quotas in users.items():
        mine = [each for each in ended if each.user_id == user_id]
        assert await taken(worlds[0], account, user_id) == [used(quota, mine, now_s) for quota in quotas], user_id


async def test_a_window_that_lies_ahead_is_counted_anew(world):
    """A wrong clock has taken it there."""
    account = (await world.customer(10**9)).account_id
    key = await key_of(world, account, ANA)
    await world.accounts.update(account, name="Other")
    await world.member_limits.set(account, ANA, (DAY_TOKENS,))
    principal = await key.principal(world)
    await spend(world, principal)
    state = await user_state(world, account)
    ahead = replace(state.counters[0], window_id=state.counters[0].window_id + 1, used=DAY_TOKENS.limit)
    await world.link.command("SET", world.keys.user(account, ANA), replace(state, counters=(ahead,)).pack())
    await spend(world, principal)
    assert await taken(world, account) == [30]


async def test_an_entry_of_a_user_that_is_cut_short_ends_nothing(world):
    """Its settlement goes to the ledger itself."""
    account = (await world.customer(10**9)).account_id
    key = await key_of(world, account, ANA)
    await world.member_limits.set(account, ANA, (DAY_TOKENS,))
    principal = await key.principal(world)
    hold = await hold_one(world, principal)
    raw = (await world.journal(account))[hold.id_bytes]
    whole = Entry.unpack(raw)
    assert whole.user_tags == (DAY_TOKENS.tag,)
    short = raw[: len(raw) - len(whole.payload) - 1]
    with pytest.raises(Unreadable):
        Entry.unpack(short)
    before = await user_state(world, account)
    await world.link.command("HSET", world.keys.journal(0), hold.id, short)
    await settle(world, principal, hold)
    assert await user_state(world, account) == before
    assert await debits(world) == {hold.id: 500}


ASKED, HELD_TOKENS, SETTLED_TOKENS = need(input_tokens=10, least=20, most=20), 30, 15
USERS = ("usr_ana", "usr_ben")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["settle", "void"]), st.integers(0, 9)),
        st.tuples(st.just("limit"), st.integers(0, 1)),
    ),
    max_size=20,
)
limits = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 150)), min_size=4, max_size=4)


@dataclass
class Used:
    """What one user has, and may have."""

    requests: int
    tokens: int
    open: int = 0
    settled: int = 0

    @property
    def has_room(self) -> bool:
        taken = self.open * HELD_TOKENS + self.settled * SETTLED_TOKENS
        return self.open + self.settled < self.requests and taken + HELD_TOKENS <= self.tokens

    @property
    def quotas(self) -> tuple[Quota, ...]:
        return Quota(Window.total, Metric.requests, self.requests), Quota(Window.total, Metric.tokens, self.tokens)


@dataclass
class Model:
    """One account of two users with two keys each."""

    world: World
    account: str
    users: list[Used]
    keys: list[Key]
    running: list[tuple[int, Principal, Hold]] = field(default_factory=list)

    async def limit(self, who: int) -> None:
        await self.world.member_limits.set(self.account, USERS[who], self.users[who].quotas)

    async def ask(self, key: int) -> None:
        principal = await self.world.engine.cache.reload(secret_digest(self.keys[key].secret))
        assert principal is not None
        decision, user = await ask(self.world, principal, ASKED), self.users[key % 2]
        assert type(decision) is (Hold if user.has_room else QuotaExceeded), (user, decision)
        if isinstance(decision, Hold):
            user.open += 1
            self.running.append((key % 2, principal, decision))

    async def end(self, how: str, place: int) -> None:
        if not self.running:
            return
        who, principal, hold = self.running.pop(place % len(self.running))
        self.users[who].open -= 1
        if how == "settle":
            self.users[who].settled += 1
            await settle(self.world, principal, hold)
        else:
            await self.world.engine.holds.void(hold)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=steps, limits=limits)
async def test_each_user_is_let_in_by_their_own_room(world, steps, limits):
    account = (await world.customer(10**12)).account_id
    keys = [await key_of(world, account, USERS[number % 2]) for number in range(4)]
    model = Model(world, account, [Used(*given) for given in limits[:2]], keys)
    for who in range(2):
        await model.limit(who)
    for step, number in steps:
        if step == "ask":
            await model.ask(number)
        elif step == "limit":
            model.users[number].requests, model.users[number].tokens = limits[2 + number]
            await model.limit(number)
        else:
            await model.end(step, number)
    while model.running:
        await model.end("void", 0)
