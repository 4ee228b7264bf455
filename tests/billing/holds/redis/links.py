"""Links to servers of a test's own, and a script to send over them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from billing.holds.redis.client import RedisClient
from billing.holds.redis.connection import RedisError, Script
from billing.holds.redis.layout import Keyspace
from tests.support.redis_cluster import Node

FENCE = Script("fence")
WAIT_S = 60.0


@asynccontextmanager
async def linked(url: str, *, timeout_s: float = 60.0, connect_timeout_s: float = 60.0) -> AsyncIterator[RedisClient]:
    link = RedisClient(url, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)
    try:
        yield link
    finally:
        await link.close()


def url_of(node: Node) -> str:
    return f"redis://127.0.0.1:{node.port}"


async def write(link: RedisClient, keys: Keyspace, partition: int = 0, epoch: int = 1) -> Any:
    """A script that writes: 1 the first time for an epoch, then 0."""
    return await link.call(FENCE, fence_keys(keys, partition), [epoch, "test", "ledger", 0])


def fence_keys(keys: Keyspace, partition: int = 0) -> list[bytes]:
    return [keys.meta(partition), keys.joined(partition), keys.installed(partition)]


async def greeted(link: RedisClient, keys: Keyspace, partition: int = 0) -> Any:
    """Connect, as often as it takes: for at most WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                life = await link.connect(keys.meta(partition))
                await life.identity()
            except RedisError:
                await asyncio.sleep(0.02)
            else:
                return life
