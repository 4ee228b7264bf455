"""What is done to a Redis Cluster under whole gateways: a master is lost, and its replica takes over.

Each fault strikes a master that serves customers whom nothing else refuses, and ends when the cluster is whole again.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from billing.holds.redis.layout import Keyspace
from gateway.runtime.stores import PRODUCTION_PARTITIONS
from tests.chaos.faults import Fault, Hit
from tests.chaos.harness import Customer, Stack
from tests.support.redis_cluster import Node, RedisCluster

BEHIND_S = 0.5
RICH_NANO = 10**9
WIDE_LIMIT = 10**6
_KEYS = Keyspace(partitions=PRODUCTION_PARTITIONS)


def cluster_of(stack: Stack) -> RedisCluster:
    """The stack's Redis. It must be a cluster."""
    assert stack.cluster is not None
    return stack.cluster


def always_served(customer: Customer) -> bool:
    """Whether neither its balance nor a window refuses it for as long as a round takes."""
    quotas = (*customer.account_quotas, *customer.key_quotas)
    return customer.granted_nano >= RICH_NANO and all(quota.limit >= WIDE_LIMIT for quota in quotas)


async def master_of(stack: Stack, customer: Customer) -> Node:
    """The master that has a customer's account."""
    return await asyncio.to_thread(cluster_of(stack).master_of, _KEYS.account(customer.account_id))


def losing_a_master(lose: Callable[[Node], Awaitable[None]]) -> Callable[[Stack, random.Random], Awaitable[Hit]]:
    """A fault that loses a master as `lose` does it, and mends the cluster once its replica has taken over."""

    async def strike(stack: Stack, chance: random.Random) -> Hit:
        cluster = cluster_of(stack)
        easy = [customer for customer in stack.customers if always_served(customer)]
        masters = [await master_of(stack, customer) for customer in easy]
        master = chance.choice(masters)
        replica = await asyncio.to_thread(cluster.replica_of, master)
        await lose(master)
        hit = Hit(
            [each for each, served_by in zip(easy, masters, strict=True) if served_by is master], time.monotonic()
        )
        await asyncio.to_thread(cluster.wait_for_promotion, replica)
        cluster.restart()
        await asyncio.to_thread(cluster.mend)
        return hit

    return strike


async def kill(master: Node) -> None:
    """kill -9."""
    master.kill()


async def kill_ahead(master: Node) -> None:
    """kill -9, when its replica lacks what it wrote last."""
    await asyncio.to_thread(master.cut_off_replicas)
    await asyncio.sleep(BEHIND_S)
    master.kill()


async def freeze(master: Node) -> None:
    """It keeps its connections and answers nothing; it is woken when it has been replaced."""
    master.freeze()


OF_CLUSTER = (
    Fault("kill -9 of a cluster's master", losing_a_master(kill), 2.0),
    Fault("kill -9 of a cluster's master, its replica 0.5 s behind", losing_a_master(kill_ahead), 2.0),
    Fault("a cluster's master frozen until it is replaced", losing_a_master(freeze), 2.0),
)
