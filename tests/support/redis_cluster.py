"""A real Redis Cluster for the tests: three masters, each with a replica, six processes of the embedded server.

    redis_cluster   the run's one cluster, whole: every master has a replica that follows it
    lone_node       one server alone, of this test, to be killed and stopped

Tests may kill, stop and promote its nodes and move its slots: the next test gets it mended. The nodes end with this
process, even when it is killed. Replicas take over 2 to 3 seconds after a master has died.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from gateway.embedded import launch
from gateway.embedded.process import valkey_server
from tests.support.ports import free_port, free_ports

MASTERS = 3
SLOTS = 16384
NODE_TIMEOUT_MS = 1500
_WAIT_S = 90.0
_POLL_S = 0.02
_MIGRATE_TIMEOUT_MS = 5000


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Blocks for at most _WAIT_S; a node that does not answer meanwhile counts as no."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        with suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, f"not within {_WAIT_S} s: {what}"
        time.sleep(_POLL_S)


class Node:
    """One server, of the cluster or alone, on a loopback port of its own. `folder` is made."""

    def __init__(self, folder: Path, port: int, settings: Mapping[str, object] | None = None) -> None:
        self.port = port
        self.client = redis.Redis(port=port, socket_timeout=20, retry=Retry(NoBackoff(), 0), decode_responses=True)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        plain = {
            "bind": "127.0.0.1",
            "port": port,
            "dir": folder,
            "logfile": folder / "log",
            "save": '""',
            "set-proc-title": "no",  # by its command line it is known
            "appendonly": "yes",
            "appendfsync": "everysec",
        }
        lines = (f"{name} {value}\n" for name, value in {**plain, **(settings or {})}.items())
        (folder / "conf").write_text("".join(lines))

    def __repr__(self) -> str:
        return f"Node({self.port})"

    def spawn(self) -> None:
        """Start it without waiting, from a thread that lives as long as the tests: the node ends with it."""
        command = [str(valkey_server()), str(self._folder / "conf")]
        between = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(SIGKILL)), "-"]
        self._process = subprocess.Popen([*between, *command], stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start it, and wait until it answers. From such a thread too."""
        self.spawn()
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        wait_until(lambda: bool(self.client.ping()), f"{self} answers: {self._folder / 'log'}")

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """As `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.client.connection_pool.disconnect()

    def signal(self, number: Signals) -> None:
        if self._process is not None and self.runs:
            self._process.send_signal(number)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        self.signal(SIGSTOP)

    def thaw(self) -> None:
        self.signal(SIGCONT)

    def ask(self, *command: object) -> Any:
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER", "MYID"))

    @property
    def role(self) -> dict[str, Any]:
        return dict(self.ask("INFO", "replication"))

    @property
    def is_master(self) -> bool:
        return bool(self.role["role"] == "master")

    def cut_off_replicas(self) -> None:
        """What is written from now on reaches no replica, while clients notice nothing. Ends with the process."""
        self.ask("ACL", "SETUSER", "default", "-psync", "-sync")
        self.ask("CLIENT", "KILL", "TYPE", "replica")


class RedisCluster:
    """Six nodes. Everything here blocks; call it from a thread beside an event loop that must go on."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(4 * MASTERS)
        pairs = zip(ports[::2], ports[1::2], strict=True)
        self.nodes = [Node(folder / str(port), port, _cluster_settings(bus_port)) for port, bus_port in pairs]
        self._first_bus_port = ports[1]

    @property
    def url(self) -> str:
        """Of a node that runs."""
        return f"redis://127.0.0.1:{next(node for node in self.nodes if node.runs).port}"

    def form(self) -> None:
        """Start the nodes and make a cluster of them."""
        self.restart()
        for node in self.nodes:
            node.wait()
        masters, replicas = self.nodes[:MASTERS], self.nodes[MASTERS:]
        bounds = [SLOTS * at // MASTERS for at in range(MASTERS + 1)]
        for at, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            node.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self._first_bus_port)
        for at, master in enumerate(masters):
            master.ask("CLUSTER", "ADDSLOTSRANGE", bounds[at], bounds[at + 1] - 1)
        wait_until(lambda: all(len(self._known(node)) == len(self.nodes) for node in self.nodes), "the nodes have met")
        for master, replica in zip(masters, replicas, strict=True):
            replica.ask("CLUSTER", "REPLICATE", master.id)
        self.mend()

    def _known(self, node: Node) -> list[str]:
        """The nodes that one has got to know, each a line."""
        lines: list[str] = node.ask("CLUSTER", "NODES").splitlines()
        return [line for line in lines if "handshake" not in line and "noaddr" not in line]

    def restart(self) -> None:
        """Let every node run again, without waiting; from a thread that lives as long as the tests."""
        for node in self.nodes:
            if node.runs:
                node.thaw()
            else:
                node.spawn()

    def mend(self) -> None:
        """Have every node run, three masters serve, and each be followed by a replica."""
        self.restart()
        wait_until(self._is_whole, "every master serves and has a replica that follows it")

    def _is_whole(self) -> bool:
        roles = [node.role for node in self.nodes]
        masters = [role for role in roles if role["role"] == "master"]
        followed = [role for role in roles if role["role"] == "slave" and role["master_link_status"] == "up"]
        states: list[str] = [node.ask("CLUSTER", "INFO") for node in self.nodes]
        agreed = all("cluster_state:ok" in state and f"cluster_slots_ok:{SLOTS}" in state for state in states)
        views = {self._slots_seen_by(node) for node in self.nodes}
        served = all(role["connected_slaves"] == 1 for role in masters)
        return agreed and served and len(views) == 1 and len(masters) == len(followed) == MASTERS

    def _slots_seen_by(self, node: Node) -> tuple[tuple[int, int, int], ...]:
        """Who has which slots, by this node: first, last, port of the master."""
        return tuple(sorted((first, last, master[1]) for first, last, master, *_ in node.ask("CLUSTER", "SLOTS")))

    def master_of(self, key: str | bytes) -> Node:
        """The node that serves a key's slot, by the view of one that runs."""
        slot = key_slot(key if isinstance(key, bytes) else key.encode())
        seen_by = next(node for node in self.nodes if node.runs)
        port = next(port for first, last, port in self._slots_seen_by(seen_by) if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def replica_of(self, master: Node) -> Node:
        return next(
            node
            for node in self.nodes
            if node.runs and node.role["role"] == "slave" and node.role["master_port"] == master.port
        )

    def wait_for_promotion(self, replica: Node) -> None:
        wait_until(lambda: replica.is_master, f"{replica} has taken over")

    def fail_over(self, master: Node) -> Node:
        """Let a master's replica take over in order, without a loss; answers the new master."""
        replica = self.replica_of(master)
        replica.ask("CLUSTER", "FAILOVER")
        wait_until(lambda: replica.is_master and not master.is_master, "the replica has taken over")
        return replica

    def move_slot(self, slot: int, target: Node) -> None:
        """Move a slot with all its keys, as operators' tools do
        (https://redis.io/docs/latest/commands/cluster-setslot/)."""
        seen = self._slots_seen_by(target)
        port = next(port for first, last, port in seen if first <= slot <= last)
        source = next(node for node in self.nodes if node.port == port)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):  # one at a time: a long and wretched move
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, _MIGRATE_TIMEOUT_MS, "KEYS", *keys)
            time.sleep(_POLL_S)
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        wait_until(self._is_whole, "every node knows where the slot is")

    def close(self) -> None:
        for node in self.nodes:
            node.kill()


def spread_prefix(cluster: RedisCluster, partitions: int, least: int = 3) -> str:
    """A prefix of keys under which every master has at least `least` of the partitions."""
    while True:
        prefix = f"t{secrets.token_hex(4)}"
        ports = [cluster.master_of(f"{{{prefix}{number}}}").port for number in range(partitions)]
        if len(set(ports)) == MASTERS and min(map(ports.count, ports)) >= least:
            return prefix


def _cluster_settings(bus_port: int) -> dict[str, object]:
    return {
        "repl-diskless-sync-delay": 0,
        "cluster-enabled": "yes",
        "cluster-port": bus_port,
        "cluster-node-timeout": NODE_TIMEOUT_MS,
        "cluster-replica-validity-factor": 0,  # a replica far behind may take over too
        "cluster-allow-replica-migration": "no",
        "cluster-require-full-coverage": "no",  # the other masters go on while one is away
    }


@contextmanager
def formed_cluster() -> Iterator[RedisCluster]:
    """A cluster of one's own, made in about 3 s. From a thread that lives as long as it."""
    folder = Path(tempfile.mkdtemp(prefix="metergate-cluster-"))
    cluster = RedisCluster(folder)
    try:
        cluster.form()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _cluster() -> Iterator[RedisCluster]:
    with formed_cluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(_cluster: RedisCluster) -> RedisCluster:
    """The cluster of the run, whole; shared: keep to keys under a prefix of your own."""
    _cluster.mend()
    return _cluster


@pytest.fixture
def lone_node(tmp_path: Path) -> Iterator[Node]:
    """A server of this test alone, not in a cluster."""
    node = Node(tmp_path / "redis", free_port())
    try:
        node.start()
        yield node
    finally:
        node.kill()
