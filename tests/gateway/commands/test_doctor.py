"""Each finding of the doctor, on real stores where they can be made so."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from gateway.commands import doctor
from gateway.commands.checks import Check
from gateway.commands.clocks import clock_finding
from gateway.commands.doctor import check_clocks, check_postgres, check_redis, check_settings, check_vocabularies
from gateway.commands.stores import Stores
from gateway.config.settings import load_settings
from gateway.embedded.binaries import valkey_server
from tests.support.ports import free_port, free_ports
from tests.support.redis_cluster import Node, RedisCluster, wait_until

NOW_S = 1_795_000_000.0
LEASE_S = 5.0


def by_name(checks: list[Check]) -> dict[str, Check]:
    found = {check.name: check for check in checks}
    assert all(bool(check.mend) == (check.status != "ok") for check in checks)
    return found


def stores(database_url: str, *, started: bool = False) -> Stores:
    return Stores(database_url, "", embedded=False, started_database=started)


async def test_stores_that_are_well(database_url: str, redis_url: str) -> None:
    found = by_name([*await check_postgres(stores(database_url)), *await check_redis(redis_url, LEASE_S)])
    assert {check.status for check in found.values()} == {"ok"}
    assert "Postgres" in found["postgres"].message
    assert "Valkey" in found["redis"].message
    assert "one server" in found["topology"].message


async def test_migrations_that_are_missing(empty_database_url: str) -> None:
    assert by_name(await check_postgres(stores(empty_database_url)))["migrations"].status == "fail"
    started = by_name(await check_postgres(stores(empty_database_url, started=True)))
    assert started["migrations"].status == "warn"
    assert "0001_core" in started["migrations"].message


async def test_commits_that_do_not_wait(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await connection.close()
    durability = by_name(await check_postgres(stores(database_url)))["durability"]
    assert (durability.status, durability.message) == ("fail", "synchronous_commit off, fsync on")


async def test_debits_that_were_set_aside(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO debits_set_aside (request_id, debit, reason) VALUES ('r1', '', 'a test')")
    await connection.close()
    debits = by_name(await check_postgres(stores(database_url)))["debits"]
    assert debits.status == "fail"
    assert debits.message.startswith("1 ")


async def test_an_old_postgres(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OLDEST_POSTGRES", 99)
    assert by_name(await check_postgres(stores(database_url)))["postgres"].status == "fail"


async def test_stores_that_are_away() -> None:
    url = "postgresql://user:swordfish@127.0.0.1:1/name?sslmode=disable"
    found = [*await check_postgres(stores(url)), *await check_redis("redis://:swordfish@127.0.0.1:1", LEASE_S)]
    assert [check.status for check in found] == ["fail", "fail"]
    assert all("127.0.0.1:1" in check.message and "swordfish" not in check.message for check in found)


async def test_clocks_that_agree(database_url: str, redis_url: str) -> None:
    (clocks,) = await check_clocks(Stores(database_url, redis_url, embedded=False, started_database=False))
    assert (clocks.name, clocks.status) == ("clocks", "ok")
    nowhere = f"{database_url.rpartition('/')[0]}/nowhere"
    assert await check_clocks(Stores(nowhere, redis_url, embedded=False, started_database=False)) == []


@pytest.mark.parametrize(
    ("ahead_s", "status", "said"),
    [
        (4.9, "ok", "4.9 s ahead of"),
        (-60.0, "warn", "60.0 s behind"),
        (3600.0, "warn", "3600.0 s ahead of"),
        (-3600.5, "fail", "3600.5 s behind"),
        (86_400.0, "fail", "86400.0 s ahead of"),
    ],
)
def test_clocks_that_differ(ahead_s: float, status: str, said: str) -> None:
    found, message, mend = clock_finding(ahead_s)
    assert (found, message) == (status, f"Redis's clock is {said} Postgres's")
    assert bool(mend) == (status != "ok")


async def test_an_old_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_what_redis_says_of_itself(info: dict[str, object], name: str, status: str) -> None:
    well = {"redis_version": "7.2.4", "aof_enabled": 1, "maxmemory_policy": "noeviction", "role": "master"}
    assert {check.status for check in doctor.redis_findings("here", "one server", well)} == {"ok"}
    found = by_name(doctor.redis_findings("here", "one server", {**well, **info}))
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


async def test_a_cluster_that_is_well(cluster: RedisCluster) -> None:
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
async def test_one_server_of_a_cluster_that_is_set_wrong(
    cluster: RedisCluster, name: str, setting: dict[str, object], status: str, mend: str
) -> None:
    for node in (masters(cluster)[1], cluster.replica_of(masters(cluster)[1])):
        with configured([node], **setting):
            checks = await check_redis(cluster.url, LEASE_S)
        assert {check.name for check in checks if check.status != "ok"} == {name}
        (wrong,) = (check for check in checks if check.status != "ok")
        assert (wrong.status, wrong.message.partition(": ")[0]) == (status, f"127.0.0.1:{node.port}")
        assert mend in wrong.mend
        (right,) = (check for check in checks if check.name == name and check.status == "ok")
        assert right.message.startswith("5 servers: ")


async def test_a_setting_of_every_server_is_one_finding(cluster: RedisCluster) -> None:
    with configured(cluster.nodes, cluster_require_full_coverage="yes", cluster_node_timeout=2000):
        found = await of_cluster(cluster, lease_s=4.9)
        assert {name for name, check in found.items() if check.status != "ok"} == {"coverage", "failover"}
        assert found["coverage"].message == "every server: cluster-require-full-coverage yes"
        assert "lease_s to 5 or more" in found["failover"].mend
        assert (await of_cluster(cluster, lease_s=5.0))["failover"].status == "ok"


async def test_a_configuration_that_is_not_ours_to_read(cluster: RedisCluster) -> None:
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", "tenant", "on", ">secret", "~*", "&*", "+@all", "-config")
    try:
        found = by_name(await check_redis(cluster.url.replace("//", "//tenant:secret@"), LEASE_S))
    finally:
        for node in cluster.nodes:
            node.ask("ACL", "DELUSER", "tenant")
    assert {name for name, check in found.items() if check.status != "ok"} == {"coverage", "failover"}
    assert all("can not be read" in found[name].message for name in ("coverage", "failover"))


async def test_a_master_without_a_replica_and_one_that_is_away(cluster: RedisCluster) -> None:
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


async def test_a_cluster_that_was_not_made_to_the_end(tmp_path: Path) -> None:
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


def test_the_shipped_configuration_is_well() -> None:
    found = check_settings(load_settings({}, mode="command"), NOW_S)
    assert {check.status for check in found} == {"ok"}
    assert check_vocabularies().status == "ok"


def test_models_without_a_price_and_no_provider() -> None:
    settings = load_settings({}, mode="command")
    demo = settings.models["demo"]
    settings = replace(
        settings,
        models={"new": replace(demo, name="new", provider="openai", model="gpt-99")},
        providers={"openai": settings.providers["openai"]},
    )
    found = check_settings(settings, NOW_S)
    assert [check.status for check in found if check.name == "providers"] == ["fail"]
    assert any("gpt-99" in check.message for check in found if check.status == "warn")
    assert not any(check.name == "prices" and check.status == "ok" for check in found)


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
async def test_a_redis_that_wants_another_password(locked_redis: str) -> None:
    for url in (locked_redis, locked_redis.replace(":herring@", "")):
        (found,) = await check_redis(url, LEASE_S)
        assert found.status == "fail"
        assert "user and password" in found.message
        assert "Correct REDIS_URL" in found.mend
        assert "herring" not in found.message + found.mend


async def test_a_server_that_is_no_redis() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


@pytest.mark.parametrize("url", ["redis://:swordfish@127.0.0.1:1?timeout=x", "redis://:swordfish@127.0.0.1:1?nope=1"])
async def test_a_url_that_no_redis_has(url: str, database_url: str) -> None:
    (found,) = await check_redis(url, LEASE_S)
    assert found.status == "fail"
    assert "Correct REDIS_URL" in found.mend
    assert "swordfish" not in found.message
    assert await check_clocks(Stores(database_url, url, embedded=False, started_database=False)) == []


@pytest.mark.parametrize("version", ["7.2-rc1", "7", "unstable", "255.255.255"])
def test_a_version_of_its_own_making(version: str) -> None:
    found = doctor.redis_findings("here", "one server", {"redis_version": version, "aof_enabled": 1})
    assert found[0].status == ("fail" if version == "unstable" else "ok")
