"""What the tests of holds do again and again: hold, settle, break things, wait, and look at both stores."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from ulid import ULID

from billing.accounts.accounts import Accounts, MemberLimits
from billing.accounts.grants import Grants
from billing.database.connection import Database
from billing.holds.engine import Engine, EngineParts, EngineSettings
from billing.holds.epochs import NotReady, Partition
from billing.holds.model import (
    Decision,
    Hold,
    HoldRequest,
    HoldSettings,
    Need,
    Settled,
)
from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import SETTLED, AccountState, Counter, Entry, Keyspace, KeyState
from billing.keys.keys import ApiKeys, Principals
from billing.keys.secrets import secret_digest
from billing.ledger.debits import Debit, encode_debit
from billing.ledger.leases import end_lease
from billing.ledger.writer import write_debits
from billing.plans import Plan
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window, window_id

PLANS = {"free": Plan("free", "Free", 0)}


STORE_S = 60.0


# A Redis that is slow because the machine is busy is not silent, who waits for it not refused, and no gateway dead.
PATIENT = EngineSettings(
    holds=HoldSettings(redis_timeout_s=60.0, settle_timeout_s=60.0, ledger_timeout_s=60.0, admission_wait_s=60.0),
    lease_s=30.0,
)


# For tests of what comes after a silence of Redis.
BRISK = EngineSettings(holds=HoldSettings(redis_timeout_s=1.0, settle_timeout_s=1.0))


@dataclass
class World:
    """One gateway process's engine, and the services that change what it serves."""

    engine: Engine
    database: Database
    link: RedisClient
    keys: Keyspace
    accounts: Accounts
    member_limits: MemberLimits
    api_keys: ApiKeys
    grants: Grants

    async def customer(
        self, balance_nano: int = 10**9, *, key_quotas: tuple[Quota, ...] = (), **account: object
    ) -> Principal:
        """A new account with this balance, and a key of it."""
        made = await self.accounts.create("Test", **account)  # type: ignore[arg-type]
        if balance_nano:
            await self.grants.grant(made.id, balance_nano, str(ULID()), None)
        _, secret = await self.api_keys.create(made.id, "test", quotas=key_quotas)
        principal = await self.engine.cache.get(secret_digest(secret))
        assert principal is not None
        return principal

    async def account_state(self, account_id: str) -> AccountState:
        return AccountState.unpack(await self.link.command("GET", self.keys.account(account_id)))

    async def key_state(self, principal: Principal) -> KeyState:
        return KeyState.unpack(await self.link.command("GET", self.keys.key(principal.account_id, principal.key_id)))

    async def journal(self, account_id: str) -> dict[bytes, bytes]:
        name = self.keys.journal(self.keys.partition_of(account_id)).decode()
        return {field: value async for field, value in self.link.scan_hash(name, 100)}


MakeWorld = Callable[..., Awaitable[World]]


@asynccontextmanager
async def making_worlds(database_url: str, redis_url: str, keyspace: Keyspace) -> AsyncIterator[MakeWorld]:
    """Makes gateways' engines that share these stores."""
    async with AsyncExitStack() as stack:

        async def make(
            settings: EngineSettings = PATIENT, plans: dict[str, Plan] = PLANS, hanging_s: float | None = None
        ) -> World:
            """`hanging_s`: a server of Redis's that is silent for so long is given up."""
            timeout_s, connect_timeout_s = hanging_s or settings.holds.redis_timeout_s, hanging_s or STORE_S
            database = Database(database_url, timeout_s=STORE_S)
            link = RedisClient(redis_url, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)
            stack.push_async_callback(database.close)
            stack.push_async_callback(link.close)
            parts = EngineParts(
                gateway_id=new_id(),
                database=database,
                client=link,
                keyspace=keyspace,
                plans=plans,
                load_principal=Principals(database, plans).load,
                settings=settings,
            )
            engine = Engine(parts)
            effects = engine.change_notifier
            accounts, grants = Accounts(database, plans, effects, new_id), Grants(database, effects, new_id)
            await stack.enter_async_context(engine)
            api_keys, member_limits = ApiKeys(database, effects, new_id), MemberLimits(database, effects)
            return World(engine, database, link, keyspace, accounts, member_limits, api_keys, grants)

        yield make


def new_id() -> str:
    return str(ULID())


def need(
    input_tokens: int = 10,
    input_cost_nano: int = 1000,
    unit_nano: int = 10,
    choices: int = 1,
    least: int = 1,
    most: int = 100,
) -> Need:
    return Need(input_tokens, input_cost_nano, unit_nano, choices, least, most)


def debit(request_id: str, principal: Principal, **changes: object) -> Debit:
    """A debit as the gateway would write it."""
    plain = Debit(
        request_id=request_id,
        admitted_at_ms=0,
        outcome="settled",
        account_id=principal.account_id,
        user_id=principal.user_id,
        key_id=principal.key_id,
        client_request_id=None,
        upstream_request_id=None,
        endpoint="/v1/chat/completions",
        feature="llm",
        model="demo",
        provider="local",
        provider_model="demo",
        input_tokens=10,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=5,
        reasoning_tokens=0,
        counts=None,
        cost_nano=500,
        charged_nano=500,
        price_id="price_test",
        multiplier=None,
        markup_scaled=0,
        estimated=False,
        status=200,
        stream=False,
        latency_ms=5,
        ttft_ms=None,
        tags=None,
        end_user=None,
    )
    return Debit(**{**{name: getattr(plain, name) for name in plain.__struct_fields__}, **changes})


WAIT_S = 60.0


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for it, bounded."""
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await asyncio.sleep(0.01)


def partition_of(world: World) -> Partition:
    (partition,) = world.engine.partitions.all
    return partition


async def joined(world: World) -> bool:
    """Whether the epoch is open, as its gateway finds when it takes part; not while another one begins meanwhile."""
    try:
        return await world.engine.epoch_start.join(partition_of(world))
    except NotReady:
        return False


def hold_request(
    request_id: str,
    principal: Principal,
    asked: Need | None = None,
    expired: Debit | None = None,
    *,
    model: str = "demo",
    feature: str = "llm",
    **more: Any,
) -> HoldRequest:
    """A request for a hold, of a small need unless told otherwise."""
    return HoldRequest(
        id=request_id,
        principal=principal,
        model=model,
        feature=feature,
        need=asked or need(),
        expired=encode_debit(expired or debit(request_id, principal)),
        **more,
    )


async def ask(
    world: World, principal: Principal, asked: Need | None = None, model: str = "demo", feature: str = "llm"
) -> object:
    """A decision. Nothing gives the hold back but the test."""
    request_id = str(ULID())
    expired = debit(request_id, principal, model=model, feature=feature, charged_nano=100, cost_nano=100)
    return await world.engine.holds.admissions.admit(
        hold_request(request_id, principal, asked, expired, model=model, feature=feature)
    )


async def ask_in_vain(world: World, principal: Principal) -> object:
    """A decision of a world that serves nobody as it is: not waited for as long as by others."""
    admissions = world.engine.holds.admissions
    settings, admissions.settings = admissions.settings, replace(admissions.settings, admission_wait_s=0.2)
    try:
        return await ask(world, principal)
    finally:
        admissions.settings = settings


async def hold_one(
    world: World, principal: Principal, asked: Need | None = None, model: str = "demo", feature: str = "llm"
) -> Hold:
    decision = await ask(world, principal, asked, model, feature)
    assert isinstance(decision, Hold), decision
    return decision


async def settle(world: World, principal: Principal, hold: Hold, **changes: object) -> Settled:
    """As 500 nano-USD and 15 tokens, unless told otherwise."""
    spent = debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms, **changes)
    return await world.engine.holds.settle(hold, spent)


async def spend(world: World, principal: Principal, **changes: object) -> str:
    """One whole request; its debit is in the journal."""
    hold = await hold_one(world, principal, model=str(changes.get("model", "demo")))
    await settle(world, principal, hold, **changes)
    return hold.id


async def kill(world: World) -> None:
    """What kill -9 leaves of a gateway: nothing but what the stores have. Its supervisor has seen it end."""
    engine = world.engine
    tasks = [*engine.loops.tasks.values(), *engine.holds._tasks, *engine.partitions._tasks]
    tasks += engine.change_notifier.publishing.values()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    engine.loops.tasks.clear()
    await engine.lease.stop()
    spool, engine.outbox.spool = engine.outbox.spool, None
    for segment in spool._segments if spool is not None else ():
        os.close(segment.fd)
    engine.outbox.waiting.ready.clear()
    engine.holds.live.clear()
    await world.link.close()
    await end_lease(world.database, engine.gateway_id)


async def sweep_by_hand(*worlds: World) -> None:
    """Nothing is swept any more but by the test."""
    for world in worlds:
        await world.engine.loops.stop("sweep")


async def renew_leases(*worlds: World) -> None:
    """Have gateways renew their leases, and see those of the others."""
    for world in worlds:
        await world.engine.lease.renew()


async def stops_to_renew(slow: World, judge: World) -> None:
    """Let the lease of a living gateway stand for longer than another one believes in it. Both sweep when called: a
    gateway that finds its holds claimed renews its lease."""
    await slow.engine.lease.stop()
    await sweep_by_hand(slow, judge)
    await time_passes(judge, slow)


async def time_passes(judge: World, *lost: World) -> None:
    """For the judge, which goes on to renew its own lease, until it has lost the others."""
    peers, step_s = judge.engine.peers, judge.engine.peers._gap_s / 2
    clock, passed_s, names = peers.clock, [0.0], [world.engine.gateway_id for world in lost]
    peers.clock = lambda: clock() + passed_s[0]

    async def are_lost() -> bool:
        passed_s[0] += step_s
        await judge.engine.lease.renew()
        return len(peers.lost(names)) == len(names)

    await eventually(are_lost)


async def keys_in_redis(world: World) -> list[bytes]:
    found: list[bytes] = await world.link.command("KEYS", f"{{{world.keys.prefix}*")
    return found


def wire_of(world: World) -> Any:
    """The connection that the engine's scripts go over."""
    session = partition_of(world).session
    return session.connection


async def delete(world: World, *keys: bytes) -> None:
    await world.link.command("DEL", *keys)


async def entries(world: World, account_id: str) -> dict[str, Entry]:
    """The journal."""
    return {key.decode(): Entry.unpack(raw) for key, raw in (await world.journal(account_id)).items()}


async def debits(world: World) -> dict[str, int]:
    """What each request was charged; each has one event and, if charged, one transfer."""
    async with world.database.transaction(snapshot=True) as connection:
        rows = await connection.fetch("SELECT request_id, charged_nano FROM usage_events")
        moved = await connection.fetch("SELECT request_id, amount_nano FROM transfers WHERE kind = 'usage'")
    found = {row["request_id"]: row["charged_nano"] for row in rows}
    assert len(found) == len(rows)
    assert {row["request_id"]: row["amount_nano"] for row in moved} == {
        request_id: charged for request_id, charged in found.items() if charged
    }
    return found


async def ledger_balance(world: World, account_id: str) -> int:
    found: int = await world.database.value("SELECT balance_nano FROM accounts WHERE id = $1", account_id)
    return found


async def assert_agreed(world: World, account_id: str) -> None:
    """With nothing running: both stores say the same balance, nothing is held, nothing waits, nothing drifts."""

    async def written() -> bool:  # by other gateways, too
        await world.engine.outbox.flush()
        await world.engine.corrections.sync(partition_of(world), account_id)
        return all(entry.state != SETTLED for entry in (await entries(world, account_id)).values())

    await eventually(written)
    state = await world.account_state(account_id)
    assert (state.held_nano, state.running) == (0, 0)
    assert state.balance_nano == await ledger_balance(world, account_id)
    assert (await world.engine.reconciler.run()).drifts == ()


EVERY_WINDOW = tuple(Quota(window, metric, 10**12) for window in Window for metric in Metric)


# Windows that do not end while a test runs, but once a month.
LONG = tuple(quota for quota in EVERY_WINDOW if quota.window in (Window.month, Window.total))


def used(quota: Quota, written: Sequence[Debit], at_s: int) -> int:
    """What these debits used of a quota in the window that holds `at_s`."""
    at = window_id(quota.window, at_s)
    return sum(
        (1, one.input_tokens + one.output_tokens, one.input_tokens, one.output_tokens, one.charged_nano)[quota.metric]
        for one in written
        if quota.applies_to(one.model, one.feature)
        and window_id(quota.window, one.admitted_at_ms // 1000) == at
        and (one.outcome == "settled" or one.input_tokens + one.output_tokens > 0)
    )


async def by_hand(world: World) -> None:
    """Nothing goes on by itself any more."""
    for task in world.engine.loops.tasks.values():
        task.cancel()
    await asyncio.gather(*world.engine.loops.tasks.values(), return_exceptions=True)
    world.engine.loops.tasks.clear()


async def counters_of(world: World, principal: Principal, subject: str) -> dict[int, Counter]:
    state = world.key_state(principal) if subject == "key" else world.account_state(principal.account_id)
    return {counter.tag: counter for counter in (await state).counters}


async def direct(world: World, principal: Principal, **changes: object) -> Debit:
    """A debit by a direct ledger write, which Redis is not told of yet."""
    one = debit(str(ULID()), principal, admitted_at_ms=partition_of(world).now_ms(), **changes)
    await write_debits(world.database, [one])
    return one


def seen_from(holds: Sequence[Hold], principal: Principal, **changes: object) -> list[Debit]:
    return [debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms, **changes) for hold in holds]


PRINCIPAL = Principal(
    account_id="acc_1",
    account_name="Acme",
    account_version=1,
    status="active",
    past_due_since_s=None,
    credit_limit_nano=0,
    account_quotas=(),
    plan=Plan("free", "Free", 0),
    key_id="key_1",
    key_version=1,
    key_name="test",
    key_prefix="mg_1234567",
    user_id=None,
    scopes=frozenset(),
    models=None,
    key_quotas=(),
    max_parallel_requests=None,
    tags={},
    created_at_s=0.0,
    expires_at_s=None,
    revoked_at_s=None,
)


# 1200 nano-USD, 30 tokens.
FIXED = need(input_tokens=10, input_cost_nano=1000, unit_nano=10, least=20, most=20)


COST_NANO = 1200


USED = {
    Metric.requests: 1,
    Metric.tokens: 30,
    Metric.input_tokens: 10,
    Metric.output_tokens: 20,
    Metric.cost: COST_NANO,
}


MINUTE_MS = 60_000


MARGIN_MS = 10_000


async def within_one_minute(world: World) -> None:
    """Wait, if a minute is about to end: one window is what is tested."""
    (partition,) = world.engine.partitions.all
    while partition.now_ms() % MINUTE_MS > MINUTE_MS - MARGIN_MS:
        await asyncio.sleep(0.05)


async def open_all(worlds: Sequence[World], principal: Principal, count: int, stack: AsyncExitStack) -> list[Decision]:
    """Ask for so many holds at once, in turn of each gateway, and keep them open."""

    async def one(number: int) -> Decision:
        holds, request_id = worlds[number % len(worlds)].engine.holds, str(ULID())
        opening = holds.open(hold_request(request_id, principal, FIXED))
        return await stack.enter_async_context(opening)

    return await asyncio.gather(*(one(number) for number in range(count)))


@dataclass(frozen=True)
class Key:
    """A key, by its secret: as every request asks for its principal."""

    secret: str

    async def principal(self, world: World) -> Principal:
        found = await world.engine.cache.get(secret_digest(self.secret))
        assert found is not None
        return found


async def key_of(world: World, account_id: str, user_id: str | None) -> Key:
    _, secret = await world.api_keys.create(account_id, "key", user_id=user_id)
    return Key(secret)
