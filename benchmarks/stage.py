"""Everything that a run needs: servers, customers, processes, and their CPU clocks.

The target, whichever it is, has TARGET_CORE to itself; generator, upstream, Redis and Postgres share OTHER_CORE, so
that at saturation nothing but the target is slowed by the target's work. Redis keeps an append-only file synced every
second, Postgres syncs every commit: both as `metergate up` runs them.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg

from benchmarks import wire
from benchmarks.load import Address
from benchmarks.machine import OTHER_CORE, TARGET_CORE, child_of, cpu_s, on_core, tree_cpu_s
from benchmarks.seed import PLAN, Size, seed
from billing.ledger.migrate import migrate
from gateway.embedded import EmbeddedServers, Endpoints, launch
from gateway.metrics import METRICS_DIR_VARIABLE
from gateway.supervisor import SUPERVISOR_PID_VARIABLE

ROOT: Final = Path(__file__).parent.parent
READY_S: Final = 60.0
STOP_S: Final = 60.0
FAILED_LINES: Final = 30


class StageError(Exception):
    """A process that the run needs did not do its part; the message says which."""


@dataclass(slots=True)
class Process:
    """One process of the benchmark, with the address that it serves."""

    name: str
    address: Address
    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def stop(self) -> int:
        """End it gently and wait; its exit code, 0 too for an end by SIGTERM. Raises `StageError` when it stays."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            code = self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise StageError(f"{self.name} did not end within {STOP_S:.0f} s") from None
        return 0 if code == -signal.SIGTERM else code

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-FAILED_LINES:])


@dataclass(frozen=True, slots=True)
class Clocks:
    """CPU seconds so far: of the target, of Redis, of Postgres with its sessions, of the upstream, of ourselves."""

    target: float
    redis: float
    postgres: float
    upstream: float
    generator: float

    def since(self, before: "Clocks") -> "Clocks":
        return Clocks(
            self.target - before.target,
            self.redis - before.redis,
            self.postgres - before.postgres,
            self.upstream - before.upstream,
            self.generator - before.generator,
        )


@dataclass(slots=True)
class Installation:
    """One Metergate with a database and a Redis of its own. `secrets` are by the number of windows."""

    database_url: str
    secrets: dict[int, list[str]]
    worker: Process


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

    def clocks(self, target: int) -> Clocks:
        """The clocks now; `target` is a process id."""
        return Clocks(
            cpu_s(target),
            cpu_s(self.redis_pid),
            tree_cpu_s(self.postgres_pid),
            cpu_s(self.upstream.pid),
            cpu_s(os.getpid()),
        )

    def upstream_counts(self) -> dict[str, int]:
        """Answers and streams that the upstream has begun."""
        host, port = self.upstream.address
        with urllib.request.urlopen(f"http://{host}:{port}/count", timeout=10) as answer:
            counts: dict[str, int] = json.load(answer)
        return counts

    def start(self, name: str, module: str, *arguments: str, core: int) -> Process:
        """Start a module of ours that serves on an inherited socket; it ends when we end."""
        launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(signal.SIGKILL)), "-")
        return self._spawn(name, (*launcher, sys.executable, "-m", module), arguments, core, None, {})

    async def metergate(
        self, size: Size, windows: Sequence[int], *, partitions: int, command: Sequence[str] = ()
    ) -> Installation:
        """Migrate and seed a new database and start a worker on it. `command` runs it under something else."""
        number, self.databases = self.databases, self.databases + 1
        database_url = await self._create_database(f"bench{number}")
        await migrate(database_url)
        secrets = {count: await seed(database_url, size, count) for count in windows}
        config = self._write_config(number, partitions)
        metrics = self.folder / f"metrics{number}"
        metrics.mkdir()
        environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": f"{self.endpoints.redis_url}?db={number}",
            "METERGATE_CONFIG": str(config),
            METRICS_DIR_VARIABLE: str(metrics),
            SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        }
        read_end, write_end = os.pipe()
        prefix = (sys.executable, "-m", *(command or ("gateway.worker",)))
        worker = self._spawn("metergate", prefix, ("--ready-fd", str(write_end)), TARGET_CORE, write_end, environment)
        os.close(write_end)
        try:
            ready = await asyncio.wait_for(asyncio.to_thread(os.read, read_end, 1), READY_S)
        finally:
            os.close(read_end)
        if not ready:
            raise StageError(f"Metergate did not start:\n{worker.last_words()}")
        return Installation(database_url, secrets, worker)

    def _spawn(
        self,
        name: str,
        prefix: Sequence[str],
        arguments: Sequence[str],
        core: int,
        more_fd: int | None,
        environment: dict[str, str],
    ) -> Process:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        log = self.folder / f"{name}.log"
        fds = [listener.fileno()] + ([more_fd] if more_fd is not None else [])
        with listener, log.open("ab") as output, on_core(core):
            popen = subprocess.Popen(
                (*prefix, "--fd", str(listener.fileno()), *arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **environment},
                pass_fds=fds,
                start_new_session=True,
            )
            address: Address = listener.getsockname()
        process = Process(name, address, popen, log)
        self.stack.callback(process.stop)
        return process

    async def _create_database(self, name: str) -> str:
        connection = await asyncpg.connect(self.endpoints.database_url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        return _with_database(self.endpoints.database_url, name)

    def _write_config(self, number: int, partitions: int) -> Path:
        folder = self.folder / f"config{number}"
        folder.mkdir()
        host, port = self.upstream.address
        provider = {"kind": "openai", "base_url": f"http://{host}:{port}/v1", "api_key": "sk-bench"}
        price = {
            "provider": "bench",
            "model": wire.MODEL,
            "effective_from": "2024-01-01",
            "per_million": {"input": wire.INPUT_USD_PER_MILLION, "output": wire.OUTPUT_USD_PER_MILLION},
            "max_output_tokens": 16384,
            "context_window": 2_000_000,
        }
        files = {  # JSON is YAML
            "metergate.yaml": {
                "providers": {"bench": provider},
                "models": {wire.MODEL: {"provider": "bench"}},
                "defaults": {"redis_partitions": partitions},
            },
            "prices.yaml": [price],
            "plans.yaml": {PLAN: {"name": "Bench", "price_usd": "0"}},
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=1))
        return folder


def _with_database(url: str, name: str) -> str:
    """The URL of another database of the same server, its socket's folder as the host, as settings want it."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    return f"{parts.scheme}://{parts.username}@{quote(folder, safe='')}/{name}"


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="metergate-bench-"))
    folder.chmod(0o711)  # as root, Postgres runs as a user who has to pass through
    return folder


@asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """Servers and the upstream, in a folder that is gone afterwards. Pins this process to OTHER_CORE."""
    os.sched_setaffinity(0, {OTHER_CORE})
    folder = _new_folder()
    try:
        async with EmbeddedServers(folder / "data") as servers:
            with ExitStack() as stack:
                stage = Stage(folder, servers.endpoints, child_of("valkey"), child_of("postgres"), stack)
                stage.upstream = stage.start("upstream", "benchmarks.upstream", core=OTHER_CORE)
                yield stage
    finally:
        shutil.rmtree(folder)
