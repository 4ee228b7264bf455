"""What the doctor finds of Redis, alone and as a cluster."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.commands import doctor
from gateway.commands.doctor import Check, check_redis, redis_findings
from gateway.embedded.process import valkey_server
from tests.support.commands import by_name
from tests.support.ports import free_port, free_ports
from tests.support.redis_cluster import Node, RedisCluster, wait_until

LEASE_S = 5.0


async def test_an_old_redis(redis_url, monkeypatch):
    monkeypatch.setattr(doctor, "OLDEST_REDIS", (99, 0))
    assert by_name(await check_redis(redis_url, LEASE_S))["redis"].status == "fail"


@pytest.mark.parametrize(
    ("info", "name", "status"),
    [
        ({"aof_enabled": 0}, "persistence", "warn"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 0}, "eviction", "fail"),
        ({"maxmemory_policy": "unknown"}, "eviction", "warn"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 1}, "eviction", "fail"),
        ({"role": "slave"}, "topology", "fail"),
        ({"redis_mode": "sentinel"}, "topology", "fail"),
        ({"redis_version": "6.0.16"}, "redis", "fail"),
        ({"redis_version": "6.2.0"}, "redis", "ok"),
        ({"redis_version": "255.255.255"}, "redis", "ok"),
        ({"redis_version": "7"}, "redis", "ok"),
    ],
)
def test_what_redis_says_of_itself(info, name, status):
    well = {"redis_version": "7.2.4", "aof_enabled": 1, "maxmemory_policy": "noeviction", "role": "master"}
    assert {check.status for check in redis_findings("here", "one server", well)} == {"ok"}
    found = by_name(redis_findings("here", "one server", {**well, **info}))
    assert found[name].status == status
    assert {check.status for check in found.values() if check.name != name} == {"ok"}


@pytest.fixture
async def cluster(redis_cluster: RedisCluster) -> RedisCluster:
    """With replicas that every node lists: they do once something was written to them."""
    for master in masters(redis_cluster):
        master.ask("PUBLISH", "test", "x")
    nodes = redis_cluster.nodes
    await asyncio.to_thread(
        wait_until,
        lambda: all(len(places) == 2 for node in nodes for _, _, *places in node.ask("CLUSTER", "SLOTS")),
        "every node lists each master's replica",
    )
    return redis_cluster


async def of_cluster(cluster: RedisCluster, lease_s: float = LEASE_S) -> dict[str, Check]:
    """Findings by name, none of which comes twice."""
    checks = await check_redis(cluster.url, lease_s)
    found = by_name(checks)
    assert len(found) == len(checks), checks
    return found


@contextmanager
def configured(nodes: list[Node], **settings: object) -> Iterator[None]:
    """Settings of these nodes until the block ends; `_` in a name stands for `-`."""
    before = []
    for name, value in ((name.replace("_", "-"), value) for name, value in settings.items()):
        before += [(node, name, node.ask("CONFIG", "GET", name)[name]) for node in nodes]
        for node in nodes:
            node.ask("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        for node, name, value in before:
            node.ask("CONFIG", "SET", name, value)


def masters(cluster: RedisCluster) -> list[Node]:
    return [node for node in cluster.nodes if node.is_master]


async def test_a_cluster_that_is_well(cluster):
    found = await of_cluster(cluster)
    assert {check.status for check in found.values()} == {"ok"}
    assert found["topology"].message == "a cluster of 3 masters with 3 replicas"
    assert found["redis"].message.startswith("every server: Valkey")
    assert found["cluster"].message == "every server: cluster_state ok, 16384 of 16384 slots served"
    assert found["replicas"].message == "at least 1 for each master"
    assert found["coverage"].message == "every server: cluster-require-full-coverage no"
    assert found["failover"].message == "every server: cluster-node-timeout 1500 ms, lease_s 5"


@pytest.mark.parametrize(
    ("name", "setting", "status", "mend"),
    [
        ("persistence", {"appendonly": "no"}, "warn", "appendonly yes"),
        ("eviction", {"maxmemory_policy": "allkeys-lru"}, "fail", "noeviction"),
        ("coverage", {"cluster_require_full_coverage": "yes"}, "warn", "cluster-require-full-coverage no"),
        ("failover", {"cluster_node_timeout": 15000}, "warn", "lease_s to 24.5 or more"),
    ],
)
async def test_one_server_of_a_cluster_that_is_set_wrong(cluster, name, setting, status, mend):
    for node in (masters(cluster)[1], cluster.replica_of(masters(cluster)[1])):
        with configured([node], **setting):
            checks = await check_redis(cluster.url, LEASE_S)
        assert {check.name for check in checks if check.status != "ok"} == {name}
        (wrong,) = (check for check in checks if check.status != "ok")
        assert (wrong.status, wrong.message.partition(": ")[0]) == (status, f"127.0.0.1:{node.port}")
        assert mend in wrong.mend
        (right,) = (check for check in checks if check.name == name and check.status == "ok")
        assert right.message.startswith("5 servers: ")


async def test_a_setting_of_every_server_is_one_finding(cluster):
    with configured(cluster.nodes, cluster_require_full_coverage="yes", cluster_node_timeout=2000):
        found = await of_cluster(cluster, lease_s=4.9)
        assert {name for name, check in found.items() if check.status != "ok"} == {"coverage", "failover"}
        assert found["coverage"].message == "every server: cluster-require-full-coverage yes"
        assert "lease_s to 5 or more" in found["failover"].mend
        assert (await of_cluster(cluster, lease_s=5.0))["failover"].status == "ok"


async def test_a_configuration_that_is_not_ours_to_read(cluster):
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", "tenant", "on", ">secret", "~*", "&*", "+@all", "-config")
    try:
        found = by_name(await check_redis(cluster.url.replace("//", "//tenant:secret@"), LEASE_S))
    finally:
        for node in cluster.nodes:
            node.ask("ACL", "DELUSER", "tenant")
    assert {name for name, check in found.items() if check.status != "ok"} == {"coverage", "failover"}
    assert all("cannot be read" in found[name].message for name in ("coverage", "failover"))


async def test_a_master_without_a_replica_and_one_that_is_away(cluster):
    """A replica dies, and then its master: nobody is left to take over."""
    master = masters(cluster)[1]
    replica, name = cluster.replica_of(master), f"127.0.0.1:{master.port}"
    others = [node for node in cluster.nodes if node not in (master, replica)]
    replica.kill()
    listed = [master.port]
    await asyncio.to_thread(
        wait_until, lambda: all(ports_of(node, master) == listed for node in others), "the replica is given up"
    )
    found = await of_cluster(cluster)
    assert {name for name, check in found.items() if check.status != "ok"} == {"replicas"}
    assert found["replicas"].message == f"{name}: no replica"
    assert found["topology"].message == "a cluster of 3 masters with 2 replicas"
    master.kill()
    await asyncio.to_thread(
        wait_until, lambda: all("cluster_slots_fail:0" not in state_of(node) for node in others), "it is given up too"
    )
    checks = await check_redis(cluster.url, LEASE_S)
    away = next(check for check in checks if check.name == "redis" and check.status == "fail")
    assert name in away.message
    assert all(each.status == "fail" for each in checks if each.name == "cluster")
    assert "CLUSTER NODES" in next(check.mend for check in checks if check.name == "cluster")


def ports_of(node: Node, master: Node) -> list[int]:
    """The servers of a master's slots, by the view of a node."""
    places = next(places for _, _, *places in node.ask("CLUSTER", "SLOTS") if places[0][1] == master.port)
    return [place[1] for place in places]


def state_of(node: Node) -> str:
    return str(node.ask("CLUSTER", "INFO"))


async def test_a_cluster_that_was_not_made_to_the_end(tmp_path):
    port, bus_port = free_ports(2)
    node = Node(tmp_path / "redis", port, {"cluster-enabled": "yes", "cluster-port": bus_port})
    try:
        node.start()
        url = f"redis://127.0.0.1:{port}"
        found = by_name(await check_redis(url, LEASE_S))
        assert found["cluster"].status == "fail"
        assert "0 of 16384 slots" in found["cluster"].message
        assert "Give every slot to a master" in found["cluster"].mend
        node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await asyncio.to_thread(wait_until, lambda: "cluster_state:ok" in state_of(node), "it serves")
        found = by_name(await check_redis(url, LEASE_S))
        assert found["cluster"].status == "ok"
        assert (found["topology"].status, found["replicas"].status) == ("warn", "warn")
        assert "3 masters or more" in found["topology"].mend
    finally:
        node.kill()


@pytest.fixture
def locked_redis(tmp_path: Path) -> Iterator[str]:
    """A server that wants a password; its URL with a wrong one."""
    port = free_port()
    command = (str(valkey_server()), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "swordfish")
    process = subprocess.Popen([*command, "--save", ""], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts(port), "the server accepts connections")
        yield f"redis://:herring@127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
async def test_a_redis_that_wants_another_password(locked_redis):
    for url in (locked_redis, locked_redis.replace(":herring@", "")):
        (found,) = await check_redis(url, LEASE_S)
        assert found.status == "fail"
        assert "user and password" in found.message
        assert "Correct REDIS_URL" in found.mend
        assert "herring" not in found.message + found.mend


async def test_a_server_that_is_no_redis():
    async def serve(reader, writer):
        with suppress(ConnectionError):
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            await reader.read(100)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        (found,) = await check_redis(f"redis://127.0.0.1:{port}", LEASE_S)
    assert (found.status, "is no Redis" in found.message) == ("fail", True)
    assert "Correct REDIS_URL" in found.mend


@pytest.mark.parametrize("version", ["7.2-rc1", "7", "unstable", "255.255.255"])
def test_a_version_of_its_own_making(version):
    found = redis_findings("here", "one server", {"redis_version": version, "aof_enabled": 1})
    assert found[0].status == ("fail" if version == "unstable" else "ok")
