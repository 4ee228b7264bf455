"""The connection to a cluster: scripts go to the masters of their slots, and what has moved is not followed blindly."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from redis.crc import key_slot

from billing.holds.redis.connection import RedisAway, RedisMoved
from billing.holds.redis.layout import Keyspace
from tests.billing.holds.redis.links import WAIT_S, greeted, linked, url_of, write
from tests.support.ports import free_port
from tests.support.redis_cluster import MASTERS, SLOTS, Node, RedisCluster, spread_prefix


@pytest.fixture
def spread(redis_cluster: RedisCluster) -> Keyspace:
    """Partitions on every master, the first two on different ones."""
    while True:
        keys = Keyspace(spread_prefix(redis_cluster, 2 * MASTERS, least=1), 2 * MASTERS)
        if redis_cluster.master_of(keys.meta(0)) is not redis_cluster.master_of(keys.meta(1)):
            return keys


async def test_scripts_go_to_the_masters_of_their_slots(redis_cluster, spread):
    async with linked(redis_cluster.url) as link:
        for partition in range(spread.partitions):
            assert await write(link, spread, partition) == 1
            master = redis_cluster.master_of(spread.meta(partition))
            assert master.ask("HGET", spread.meta(partition), "epoch") == "1"
            assert await link.command("HGET", spread.meta(partition), "epoch") == b"1"
        assert link.topology == "a cluster of 3 masters"
        for node in redis_cluster.nodes:
            node.ask("SCRIPT", "FLUSH")
        assert [await write(link, spread, partition) for partition in range(spread.partitions)] == [
            0
        ] * spread.partitions


async def test_any_node_leads_to_the_cluster(redis_cluster, spread):
    for at, node in enumerate(redis_cluster.nodes):
        async with linked(url_of(node)) as link:
            assert await write(link, spread, epoch=at + 1) == 1


async def test_who_is_in_a_cluster(redis_cluster, spread):
    async with linked(redis_cluster.url) as link:
        for partition in range(spread.partitions):
            await write(link, spread, partition)  # a replica is listed once it was written to
    async with asyncio.timeout(WAIT_S):
        while True:
            async with linked(redis_cluster.url) as link:
                shards = await link.shards()
                if all(shard.replicas for shard in shards):
                    told = [await each.replicas[0].info("replication") for each in shards]
                    break
            await asyncio.sleep(0.02)
    assert len(shards) == MASTERS
    assert sum(shard.slots for shard in shards) == SLOTS
    assert [len(shard.replicas) for shard in shards] == [1] * MASTERS
    assert [f"{each['master_host']}:{each['master_port']}" for each in told] == [each.master.name for each in shards]


async def test_who_is_there_without_a_cluster(lone_node):
    async with linked(url_of(lone_node)) as link:
        (alone,) = await link.shards()
        assert (alone.master.name, alone.replicas, alone.slots) == (f"127.0.0.1:{lone_node.port}", (), 0)
    async with linked(f"redis://127.0.0.1:{free_port()}") as link:
        with pytest.raises(RedisAway):
            await link.shards()


Move = Callable[[RedisCluster, Keyspace], None]


def fail_over(cluster: RedisCluster, keys: Keyspace) -> None:
    cluster.fail_over(cluster.master_of(keys.meta(0)))


def move_slot(cluster: RedisCluster, keys: Keyspace) -> None:
    source = cluster.master_of(keys.meta(0))
    target = next(node for node in cluster.nodes if node.is_master and node is not source)
    cluster.move_slot(key_slot(keys.meta(0)), target)


@pytest.mark.parametrize("move", [fail_over, move_slot])
async def test_a_slot_that_has_gone_elsewhere(redis_cluster, spread, move):
    async with linked(redis_cluster.url) as link:
        lives = [await link.connect(spread.meta(partition)) for partition in (0, 1)]
        before = [await life.identity() for life in lives]
        assert await write(link, spread) == 1
        await asyncio.to_thread(move, redis_cluster, spread)
        assert lives[0].stands  # nobody has said so yet
        with pytest.raises(RedisMoved, match="MOVED"):
            await write(link, spread, epoch=2)
        assert [life.stands for life in lives] == [False, True]
        with pytest.raises(RedisAway):
            await write(link, spread, epoch=2)
        again = await greeted(link, spread)
        assert await again.identity() != before[0]
        assert await again.ask("HGET", spread.meta(0), "epoch") == b"1"
        assert await write(link, spread, epoch=2) == 1
        assert await link.connect(spread.meta(1)) is lives[1]


@pytest.fixture
def migrating(redis_cluster: RedisCluster, spread: Keyspace) -> Iterator[Node]:
    """The slot of the first partition is on its way to this node, none of its keys there yet."""
    slot, source = key_slot(spread.meta(0)), redis_cluster.master_of(spread.meta(0))
    target = next(node for node in redis_cluster.nodes if node.is_master and node is not source)
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    yield target
    for node in (source, target):
        node.ask("CLUSTER", "SETSLOT", slot, "STABLE")


async def test_ask_is_not_followed(redis_cluster, spread, migrating):
    source = redis_cluster.master_of(spread.meta(0))
    async with linked(redis_cluster.url) as link:
        life = await link.connect(spread.meta(0))
        with pytest.raises(RedisMoved, match="ASK"):
            await write(link, spread)
        assert not life.stands
        assert [node.ask("CLUSTER", "COUNTKEYSINSLOT", key_slot(spread.meta(0))) for node in (source, migrating)] == [
            0,
            0,
        ]
        again = await link.connect(spread.meta(0))  # the slot is still the source's
        assert again.connection is life.connection
        with pytest.raises(RedisMoved, match="ASK"):
            await again.ask("HGET", spread.meta(0), "epoch")
        assert not again.stands


async def test_a_half_moved_partition_is_not_served(redis_cluster, spread):
    source, slot = redis_cluster.master_of(spread.meta(0)), key_slot(spread.meta(0))
    target = next(node for node in redis_cluster.nodes if node.is_master and node is not source)
    async with linked(redis_cluster.url) as link:
        assert await write(link, spread) == 1
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        with pytest.raises(RedisMoved, match="TRYAGAIN"):  # meta is here, the other two may be there
            await write(link, spread, epoch=2)
        for node in (source, target):
            node.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        await greeted(link, spread)
        assert await write(link, spread, epoch=2) == 1


async def test_a_link_outlives_the_node_that_it_was_given(redis_cluster, spread):
    seed = redis_cluster.master_of(spread.meta(0))
    replica = redis_cluster.replica_of(seed)
    async with linked(url_of(seed)) as link, linked(url_of(replica)) as other:
        subscribed, heard = asyncio.Semaphore(0), asyncio.Queue[bytes]()

        async def listen():
            while True:
                try:
                    async for message in link.listen("changes", subscribed.release):
                        heard.put_nowait(message)
                except RedisAway:
                    await asyncio.sleep(0.02)

        listening = asyncio.ensure_future(listen())
        lives = [await greeted(link, spread, partition) for partition in (0, 1)]
        async with asyncio.timeout(WAIT_S):
            await subscribed.acquire()
            await other.publish("changes", b"one")
            assert await heard.get() == b"one"
            seed.kill()
            await subscribed.acquire()  # at another node
            await other.publish("changes", b"two")
            assert await heard.get() == b"two"
        assert lives[1].stands
        assert await write(link, spread, 1) == 1
        with pytest.raises(RedisAway):
            await write(link, spread, 0)
        await asyncio.to_thread(redis_cluster.wait_for_promotion, replica)
        await greeted(link, spread)
        assert await write(link, spread, 0) == 1
        listening.cancel()
