"""The chaos's clocks: each server has its own, which can be turned while it runs, and no other is turned with it."""

import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from billing.holds.redis.client import RedisClient
from gateway.embedded.servers import EmbeddedServers, Endpoints
from tests.chaos.clocks import DAY_S, compiler, turn, with_clocks
from tests.chaos.places import make_folder
from tests.chaos.waiting import until

pytestmark = pytest.mark.slow

NEAR_S = 600.0


@pytest.fixture
def folder() -> Iterator[Path]:
    if compiler() is None:
        pytest.skip("there is no C compiler here, or this is no Linux")
    made = make_folder(None)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def servers(folder: Path) -> AsyncIterator[Endpoints]:
    with with_clocks(folder):
        async with EmbeddedServers(folder / "data") as made:
            yield made.endpoints


async def test_each_server_has_a_clock_of_its_own(folder, servers):
    link = RedisClient(servers.redis_url)
    connection = await asyncpg.connect(servers.database_url)
    try:
        for redis_s, postgres_s in ((0, 0), (DAY_S, 0), (0, -DAY_S), (-DAY_S, DAY_S), (0, 0)):
            turn(folder, "redis", redis_s)
            turn(folder, "postgres", postgres_s)

            async def shown(redis_s=redis_s, postgres_s=postgres_s):
                seconds, _ = await link.command("TIME")
                at_s = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::bigint")
                found = (int(seconds) - redis_s, at_s - postgres_s)
                return all(abs(each - time.time()) < NEAR_S for each in found)

            await until(shown, f"the clocks show {redis_s} and {postgres_s}")  # Redis keeps a moment's time
    finally:
        await connection.close()
        await link.close()
