"""Whether servers are set up so that they keep what they are told. A server that evicts loses journals and balances one
key at a time, for as long as its memory is full: no epoch is new enough for that."""

import asyncio
import logging
from typing import Final

from billing.holds.redis.client import RedisClient
from billing.holds.redis.server import Server
from billing.holds.redis_errors import RedisError, RedisUnfit

logger = logging.getLogger(__name__)

NO_EVICTION: Final = "noeviction"


async def refuse_eviction(link: RedisClient) -> None:
    """Look at every server, replicas too: they are masters one day. One that is away, or does not say, is passed over.

    Raises `RedisUnfit` where one evicts, `RedisAway` where none answers.
    """
    servers = [server for shard in await link.shards() for server in (shard.master, *shard.replicas)]
    for server, policy in zip(servers, await asyncio.gather(*map(_policy, servers)), strict=True):
        if policy is None:
            logger.warning("%s does not say whether it evicts: see that maxmemory-policy is noeviction", server.name)
        elif policy != NO_EVICTION:
            raise RedisUnfit(
                f"{server.name} has maxmemory-policy {policy} and may forget debits: set it to {NO_EVICTION}"
            )


async def _policy(server: Server) -> str | None:
    try:
        policy: str | None = (await server.command("INFO", "memory")).get("maxmemory_policy")
    except RedisError:
        return None
    return policy
