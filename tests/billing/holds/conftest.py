"""An engine on the real stores, with an account and a key to spend from."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest
from ulid import ULID

from billing.accounts.accounts import Accounts
from billing.accounts.grants import Grants
from billing.accounts.member_limits import MemberLimits
from billing.database.connection import Database
from billing.holds.engine import Engine, EngineParts, EngineSettings
from billing.holds.model import HoldSettings, Need
from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import AccountState, Keyspace, KeyState
from billing.keys.keys import ApiKeys
from billing.keys.principals import Principals
from billing.keys.secrets import secret_digest
from billing.ledger.debits import Debit
from billing.plans import Plan
from billing.principals import Principal
from billing.quotas import Quota

PLANS = {"free": Plan("free", "Free", 0)}
STORE_S = 60.0
PATIENT = EngineSettings(
    holds=HoldSettings(redis_timeout_s=60.0, settle_timeout_s=60.0, ledger_timeout_s=60.0, admission_wait_s=60.0),
    lease_s=30.0,
)
"""A Redis that is slow because the machine is busy is not silent, who waits for it not refused, and no gateway dead."""
BRISK = EngineSettings(holds=HoldSettings(redis_timeout_s=1.0, settle_timeout_s=1.0))
"""For tests of what comes after a silence of Redis."""


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


@pytest.fixture
def keyspace(key_prefix: str) -> Keyspace:
    """Where the test's gateways keep their state."""
    return Keyspace(key_prefix)


@pytest.fixture
async def make_world(database_url: str, redis_url: str, keyspace: Keyspace) -> AsyncIterator[MakeWorld]:
    """Makes gateways that share the test's stores."""
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
            load = Principals(database, plans).by_digest
            parts = EngineParts(
                gateway_id=str(ULID()),
                database=database,
                client=link,
                keyspace=keyspace,
                plans=plans,
                load_principal=load,
                settings=settings,
            )
            engine = Engine(parts)
            new_id = lambda: str(ULID())  # noqa: E731
            api_keys = ApiKeys(database, engine.change_notifier, new_id)
            accounts = Accounts(database, plans, engine.change_notifier, new_id)
            grants = Grants(database, engine.change_notifier, new_id)
            await stack.enter_async_context(engine)
            member_limits = MemberLimits(database, engine.change_notifier)
            return World(engine, database, link, keyspace, accounts, member_limits, api_keys, grants)

        yield make


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    return await make_world()


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
        endpoint="/v1/chat/completions",
        feature="llm",
        model="demo",
        provider="local",
        provider_model="demo",
        input_tokens=10,
        output_tokens=5,
        cost_nano=500,
        charged_nano=500,
        price_id="price_test",
        status=200,
        latency_ms=5,
    )
    return Debit(**{**{name: getattr(plain, name) for name in plain.__struct_fields__}, **changes})


__all__ = ["PLANS", "World", "debit", "need", "replace"]
