"""Engines on the real stores."""

from collections.abc import AsyncIterator

import pytest

from billing.holds.redis.layout import Keyspace
from billing.principals import Principal
from tests.support.holds import MakeWorld, World, making_worlds


@pytest.fixture
def keyspace(key_prefix: str) -> Keyspace:
    """Where the test's gateways keep their state."""
    return Keyspace(key_prefix)


@pytest.fixture
async def make_world(database_url: str, redis_url: str, keyspace: Keyspace) -> AsyncIterator[MakeWorld]:
    """Makes gateways that share the test's stores."""
    async with making_worlds(database_url, redis_url, keyspace) as make:
        yield make


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    return await make_world()


@pytest.fixture
async def principal(world: World) -> Principal:
    """A key of a new account with one dollar."""
    return await world.customer()
