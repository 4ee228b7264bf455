"""Engines on the real stores."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from ulid import ULID

from billing.accounts.accounts import Accounts, MemberLimits
from billing.accounts.grants import Grants
from billing.database.connection import Database
from billing.holds.engine import Engine, EngineParts, EngineSettings
from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import Keyspace
from billing.keys.keys import ApiKeys, Principals
from billing.plans import Plan
from tests.support.holds import PATIENT, PLANS, STORE_S, MakeWorld, World


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
