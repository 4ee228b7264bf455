"""Everything that a run needs: servers, customers, processes, and their CPU clocks.

The target, whichever it is, has TARGET_CORE to itself; generator, upstream, Redis and Postgres share OTHER_CORE, so
that at saturation nothing but the target is slowed by the target's work. Redis keeps an append-only file synced every
second, Postgres syncs every commit: both as `metergate up` runs them.
"""

import asyncio
import json
import os
import resource
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg

from benchmarks.installation import Installation, write_config
from benchmarks.machine import OTHER_CORE, TARGET_CORE, child_of, cpu_s, tree_cpu_s
from benchmarks.process import READY_S, Process, StageError, bound_to_us, free_address, listen, spawn
from benchmarks.seed import Size, seed, seed_counted
from billing.database.migrate import migrate
from gateway.embedded.servers import EmbeddedServers, Endpoints
from gateway.process.supervisor import SUPERVISOR_PID_VARIABLE

OPEN_FILES: Final = 16_384
TELL_S: Final = 120.0
UNTOLD: Final = "SELECT count(*) FROM accounts WHERE version > pushed_version"
LIVE_GATEWAYS: Final = "SELECT count(*) FROM gateways WHERE lease_until > now()"


@dataclass(frozen=True, slots=True)
class Clocks:
    """CPU seconds so far: of each of the target's workers, of Redis, of Postgres with its sessions, of the upstream, of
    ourselves."""

    workers: tuple[float, ...]
    redis: float
    postgres: float
    upstream: float
    generator: float

    @property
    def target(self) -> float:
        """All its workers together."""
        return sum(self.workers)

    def since(self, before: "Clocks") -> "Clocks":
        return Clocks(
            tuple(now - then for now, then in zip(self.workers, before.workers, strict=True)),
            self.redis - before.redis,
            self.postgres - before.postgres,
            self.upstream - before.upstream,
            self.generator - before.generator,
        )


@dataclass(slots=True)
class Stage:
    """What stands while a run lasts."""

    folder: Path
    endpoints: Endpoints
    redis_pid: int
    postgres_pid: int
    stack: ExitStack
    upstream: Process = field(init=False)
    databases: int = 0

    def clocks(self, target: Process) -> Clocks:
        """The clocks now."""
        return Clocks(
            tuple(map(tree_cpu_s, target.workers)),
            cpu_s(self.redis_pid),
            tree_cpu_s(self.postgres_pid),
            cpu_s(self.upstream.popen.pid),
            cpu_s(os.getpid()),
        )

    @property
    def upstream_url(self) -> str:
        host, port = self.upstream.address
        return f"http://{host}:{port}"

    def upstream_counts(self) -> dict[str, int]:
        """Answers and streams that the upstream has begun."""
        host, port = self.upstream.address
        with urllib.request.urlopen(f"http://{host}:{port}/count", timeout=10) as answer:
            counts: dict[str, int] = json.load(answer)
        return counts

    def keep(self, process: Process) -> Process:
        """Have it stopped at the end."""
        self.stack.callback(process.stop)
        return process

    def start(self, name: str, module: str, *arguments: str, core: int) -> Process:
        """Start a module of ours that serves on an inherited socket; it ends when we end."""
        with listen() as listener:
            command = (sys.executable, "-m", module, *arguments, "--fd", str(listener.fileno()))
            address, fds = listener.getsockname(), [listener.fileno()]
            return self.keep(spawn(name, bound_to_us(command), address, self.folder, core, fds=fds))

    async def install(
        self, size: Size, windows: Sequence[int], *, partitions: int, defaults: Mapping[str, object] | None = None
    ) -> Installation:
        """A new database and a new Redis database, migrated, with customers; nothing serves yet. `defaults` are further
        ones of metergate.yaml."""
        number, self.databases = self.databases, self.databases + 1
        database_url = await self.create_database(f"bench{number}")
        await migrate(database_url)
        secrets = {count: await seed(database_url, size, count) for count in windows}
        config = self.folder / f"config{number}"
        write_config(config, self.upstream_url, {"redis_partitions": partitions, **(defaults or {})})
        redis_url = f"{self.endpoints.redis_url}?db={number}"
        counted = await seed_counted(database_url)
        return Installation(database_url, redis_url, config, secrets, counted)

    async def worker(self, installation: Installation, name: str, command: Sequence[str] = ()) -> Process:
        """One worker on an installation, as a supervisor starts it. `command` runs it under something else."""
        read_end, write_end = os.pipe()
        module = command or ("gateway.app",)
        environment = {**installation.environment(), SUPERVISOR_PID_VARIABLE: str(os.getpid())}
        with listen() as listener:
            fds = [listener.fileno(), write_end]
            more = ("--fd", str(fds[0]), "--ready-fd", str(fds[1]))
            process = spawn(
                name,
                (sys.executable, "-m", *module, *more),
                listener.getsockname(),
                self.folder,
                TARGET_CORE,
                fds=fds,
                environment=environment,
            )
        self.keep(process)
        os.close(write_end)
        try:
            ready = await asyncio.wait_for(asyncio.to_thread(os.read, read_end, 1), READY_S)
        finally:
            os.close(read_end)
        if not ready:
            raise StageError(f"{name} did not start:\n{process.last_words()}")
        await self._all_told(installation)
        return process

    async def _all_told(self, installation: Installation) -> None:
        """The first gateway takes a new plan for a change of every account, and tells them all: some seconds of work
        that belong to no request."""
        connection = await asyncpg.connect(installation.database_url)
        deadline = asyncio.get_running_loop().time() + TELL_S
        try:
            while await connection.fetchval(UNTOLD):
                if asyncio.get_running_loop().time() > deadline:
                    raise StageError("the gateway did not tell all changes of accounts in time")
                await asyncio.sleep(0.1)
        finally:
            await connection.close()

    async def serve(self, installation: Installation, workers: int) -> Process:
        """`metergate serve --workers N` on an installation, every worker pinned to TARGET_CORE and serving."""
        before = await self._live_gateways(installation)
        address = free_address()
        environment = {**installation.environment(), "LISTEN_ADDR": f"{address[0]}:{address[1]}"}
        command = bound_to_us((sys.executable, "-m", "gateway", "serve", "--workers", str(workers)))
        process = spawn(f"serve {workers}", command, address, self.folder, TARGET_CORE, environment=environment)
        self.keep(process)
        await process.until(lambda: process.answers("/readyz") and len(process.children()) == workers)
        deadline = asyncio.get_running_loop().time() + READY_S
        while await self._live_gateways(installation) < before + workers:
            if asyncio.get_running_loop().time() > deadline:
                raise StageError(f"not every worker has a lease:\n{process.last_words()}")
            await asyncio.sleep(0.1)
        process.workers = process.children()
        return process

    async def _live_gateways(self, installation: Installation) -> int:
        connection = await asyncpg.connect(installation.database_url)
        try:
            count: int = await connection.fetchval(LIVE_GATEWAYS)
        finally:
            await connection.close()
        return count

    async def create_database(self, name: str) -> str:
        """An empty database, and its URL."""
        connection = await asyncpg.connect(self.endpoints.database_url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        return self.database(name)

    def database(self, name: str) -> str:
        """The URL of a database."""
        return _with_database(self.endpoints.database_url, name)


def _with_database(url: str, name: str) -> str:
    """The URL of another database of the same server, its socket's folder as the host, as settings want it."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    return f"{parts.scheme}://{parts.username}@{quote(folder, safe='')}/{name}"


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="metergate-bench-"))
    folder.chmod(0o711)  # as root, Postgres runs as a user who has to pass through
    return folder


def _open_many_files() -> None:
    """Thousands of streams need as many sockets, here and in every process that we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@asynccontextmanager
async def open_stage(kept: Path | None = None) -> AsyncIterator[Stage]:
    """Servers and the upstream, in a folder that is gone afterwards, but for the servers' data where `kept` is given.
    Pins this process to OTHER_CORE."""
    os.sched_setaffinity(0, {OTHER_CORE})
    _open_many_files()
    folder = _new_folder()
    try:
        async with EmbeddedServers(kept or folder / "data") as servers:
            with ExitStack() as stack:
                stage = Stage(folder, servers.endpoints, child_of("valkey"), child_of("postgres"), stack)
                stage.upstream = stage.start("upstream", "benchmarks.upstream", core=OTHER_CORE)
                yield stage
    finally:
        shutil.rmtree(folder)
