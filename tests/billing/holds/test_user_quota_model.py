"""A user's quotas as a model has them: whatever two users ask for with their keys, each is let in as long as their own
requests and tokens have room, and by nothing of the other's."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.holds.model import Hold, QuotaExceeded
from billing.keys.secrets import secret_digest
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.billing.holds.test_user_limits import Key, key_of
from tests.support.holds import World, ask, need, settle

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
async def test_each_user_is_let_in_by_their_own_room(
    world: World, steps: list[tuple[str, int]], limits: list[tuple[int, int]]
) -> None:
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
