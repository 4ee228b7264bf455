"""Both servers of a data folder: their settings, and when each is ready; started, kept running, stopped in order; and
found by other processes.

async with EmbeddedServers(Path(".metergate"), report=print) as servers:
    ...  # servers.endpoints.database_url, servers.endpoints.redis_url

Postgres's data is either whole, with the database `metergate` in it, or not there: it is made under another name and
renamed. Who may connect is written at each start: the kernel tells the server which user asks (`peer`), and ours, root
and the server's own are let in, without any password that could leak. No TCP port is open.
"""

import asyncio
import errno
import json
import logging
import os
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGQUIT, SIGTERM
from types import TracebackType
from typing import Final, Protocol, Self
from urllib.parse import quote

from gateway.embedded import process
from gateway.embedded.folders import (
    Account,
    EmbeddedServersError,
    Folders,
    ServerFailed,
    hand_over,
    held,
    locked,
    make_folders,
    make_home,
    postgres_home,
    server_account,
    take_over,
    user_name,
    write_private,
)
from gateway.embedded.process import (
    Marks,
    Program,
    Stop,
    postgres_bin,
    read_pid,
    run_to_end,
    stop_children_left_in,
    stop_orphans,
    valkey_server,
)

_log = logging.getLogger(__name__)


USER = DATABASE = "metergate"
FAST_SHUTDOWN_S = 20.0  # SIGINT: sessions are ended, data is written
IMMEDIATE_SHUTDOWN_S = 5.0  # SIGQUIT: recovery at the next start
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Refused statements are their sender's to report; here they would only make the log grow, with what they contained.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
}
ACCESS = f"""# Written at each start of Metergate. Type, databases, users, method: by the user that the kernel names.
local all {USER} peer map=metergate
"""
_ANSWER_TIMEOUT_S = 1.0
_STATUS_LINE = 7  # of postmaster.pid, counted from 0 (postgres/src/include/utils/pidfile.h)


@dataclass(frozen=True, slots=True)
class Postgres:
    """The server of one data folder; `options` are settings (`-c`) over SETTINGS."""

    folders: Folders
    bin: Path
    account: Account | None
    options: Mapping[str, str]

    @property
    def url(self) -> str:
        """Return the URL of the database."""
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self.folders.postgres_run), safe='')}"

    @property
    def program(self) -> Program:
        """Return how the server is started."""
        command = [str(self.bin / "postgres"), "-D", str(self.folders.postgres), "-k", str(self.folders.postgres_run)]
        for name, value in {**SETTINGS, **self.options}.items():
            command += ["-c", f"{name}={value}"]
        stop = ((SIGINT, FAST_SHUTDOWN_S), (SIGQUIT, IMMEDIATE_SHUTDOWN_S))
        return self._program("Postgres", tuple(command), stop)

    async def prepare(self, report: Callable[[str], None]) -> None:
        """End an orphan of this data folder, and make the data if there is none. Raises ServerFailed."""
        await self.clear(report)
        if not self.folders.postgres.exists():
            report("Making the Postgres database ...")
            await self._initialise()
        elif take_over(self.folders.postgres, self.account):
            report(f"The Postgres data in {self.folders.postgres} belongs to its new user now.")
        self._write_access(self.folders.postgres)

    async def clear(self, report: Callable[[str], None]) -> None:
        """Leave nothing of an earlier run that hinders a start. Raises ServerFailed."""
        record = self.folders.postgres / "postmaster.pid"
        pid = read_pid(record)
        marks = Marks("postgres", frozenset(("-D", str(self.folders.postgres), "-k")))
        for ended in await stop_orphans(self.program, pid, marks):
            report(f"Stopped a Postgres that an earlier run had left behind (process {ended}).")
        # A new Postgres refuses to start beside what its predecessor's children have in memory.
        left = await stop_children_left_in(self.folders.postgres, self.program, "postgres")
        if left:
            numbers = ", ".join(str(each) for each in left)
            report(f"Stopped what a Postgres of an earlier run had left behind (processes {numbers}).")
        # Nothing runs here now. Where a recorded number exists, another program has it, or nobody has reaped the server
        # yet. Postgres would take it for itself and refuse to start, by either file.
        for lock in (record, self.folders.postgres_socket_lock):
            owner = read_pid(lock)
            if owner is not None and _exists(owner):
                lock.unlink(missing_ok=True)

    def ready(self, pid: int) -> bool:
        """Return whether the server with this process id accepts connections: its pid file says so, which pg_ctl reads
        too."""
        try:
            lines = (self.folders.postgres / "postmaster.pid").read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE].strip() == "ready"

    async def _initialise(self) -> None:
        half = self.folders.postgres.with_name("postgres.new")
        if half.exists():
            shutil.rmtree(half)
        half.mkdir()
        hand_over(half, self.account)
        initdb = (
            str(self.bin / "initdb"),
            "--auth-local=peer",
            "--auth-host=reject",
            "-E",
            "UTF8",
            "--no-locale",
            "-U",
            USER,
            "-D",
            str(half),
        )
        await run_to_end(self._program("initdb", initdb))
        # Postgres's own single-user mode: it needs no client, and the database is there before any server starts.
        single_user = (str(self.bin / "postgres"), "--single", "-D", str(half), "-c", "exit_on_error=on", "postgres")
        await run_to_end(self._program("Postgres", single_user), stdin=f"CREATE DATABASE {DATABASE};\n".encode())
        self._write_access(half)
        half.rename(self.folders.postgres)

    def _write_access(self, data: Path) -> None:
        """Write who may connect; earlier versions let in every user that reached the socket."""
        users = {user_name(0), user_name(os.geteuid())}
        if self.account is not None and not self.account.shared:
            users.add(self.account.name)
        quoted = (user.replace('"', '""') for user in sorted(users))
        names = "".join(f'metergate "{user}" {USER}\n' for user in quoted)
        write_private(data / "pg_ident.conf", f"# Map, user of this machine, user of Postgres.\n{names}", self.account)
        write_private(data / "pg_hba.conf", ACCESS, self.account)

    def _program(self, name: str, command: tuple[str, ...], stop: Stop = ((SIGTERM, 5.0),)) -> Program:
        log = self.folders.logs / "postgres.log"
        return Program(name=name, command=command, log=log, account=self.account, stop=stop)


def postgres_answers(postgres_socket: Path) -> bool:
    """Return whether a Postgres on this socket takes sessions: not while it recovers. Blocks for at most
    _ANSWER_TIMEOUT_S.

    It is asked for one as the protocol says (Postgres documentation, "Message Formats": StartupMessage, version 3.0),
    and answers `R` (authentication) or `E` (error).
    """
    parameters = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(postgres_socket))
            connection.sendall(struct.pack("!II", 8 + len(parameters), 3 << 16) + parameters)
            return connection.recv(1) == b"R"
        except OSError:
            return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


SHUTDOWN_S = 20.0  # SIGTERM: the append-only file is written and synced
_PING_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Redis:
    """The server of one data folder."""

    folders: Folders
    binary: Path

    @property
    def url(self) -> str:
        """Return the URL of the server."""
        return f"unix://{quote(str(self.folders.redis_socket))}"

    @property
    def program(self) -> Program:
        """Return how the server is started."""
        return Program(
            name="Redis",
            command=(str(self.binary), str(self.folders.redis_conf)),
            log=self.folders.logs / "redis.log",
            account=None,
            stop=((SIGTERM, SHUTDOWN_S),),
        )

    async def prepare(self, report: Callable[[str], None]) -> None:
        """End an orphan of this data folder, and write the configuration. Raises ServerFailed."""
        await self.clear(report)
        self.folders.redis_conf.write_text(self._configuration(), "utf-8", "surrogateescape")

    async def clear(self, report: Callable[[str], None]) -> None:
        """Leave nothing of an earlier run that hinders a start. Raises ServerFailed."""
        marks = Marks(self.binary.name, frozenset((str(self.folders.redis_conf),)))
        for ended in await stop_orphans(self.program, read_pid(self.folders.redis_pid), marks):
            report(f"Stopped a Redis that an earlier run had left behind (process {ended}).")

    def ready(self, pid: int) -> bool:
        """Return whether the server with this process id answers: it has written its pid file, and has loaded its
        data."""
        return read_pid(self.folders.redis_pid) == pid and redis_answers(self.folders.redis_socket)

    def _configuration(self) -> str:
        settings = {
            "port": "0",
            "unixsocket": _quoted(self.folders.redis_socket),
            "unixsocketperm": "700",
            "dir": _quoted(self.folders.redis),
            "pidfile": _quoted(self.folders.redis_pid),
            "daemonize": "no",
            "set-proc-title": "no",  # by its command line an orphan is known
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "no",
            "enable-module-command": "no",
            "loglevel": "notice",
            "always-show-logo": "no",
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())


def redis_answers(redis_socket: Path) -> bool:
    """Return whether a Redis on this socket answers PING with PONG: not while it loads. Blocks for at most
    _PING_TIMEOUT_S."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PING_TIMEOUT_S)
        try:
            connection.connect(str(redis_socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


_ENDPOINTS_NAME = "endpoints.json"
NO_SPACE: Final = os.strerror(errno.ENOSPC)
FIRST_START_MIB: Final = 80
MIB: Final = 1024 * 1024
RESTART_DELAY_S = 0.1  # before the second restart in a row, doubled for each one more; the first is at once
RESTART_DELAY_LIMIT_S = 5.0
STABLE_AFTER_S = 30.0  # a server that ran as long begins anew with its delays
FIRST_START_ATTEMPTS = 3  # what is left of a Postgres killed together with its supervisor can need a moment to go
FIRST_START_DELAY_S = 0.3


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers are: what DATABASE_URL and REDIS_URL would say. There is no secret in them."""

    database_url: str
    redis_url: str


class EmbeddedServers:
    """Postgres and Redis on one data folder, for as long as the context is open.

    Entering raises AlreadyRunning when a live process has the folder, ServerFailed when a server doesn't start, and
    EmbeddedServersError for a folder or a machine that doesn't serve; nothing is left running then. A server that dies
    meanwhile is started again with its data. `report` gets lines about progress; `postgres_options` are settings.

    To be entered from a thread that lives as long as the context is open (see `launch`).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        report: Callable[[str], None] = _log.info,
        postgres_options: Mapping[str, str] | None = None,
    ) -> None:
        self._data_dir, self._report, self._postgres_options = data_dir, report, dict(postgres_options or {})
        self._stack = AsyncExitStack()
        self._endpoints: Endpoints | None = None

    @property
    def endpoints(self) -> Endpoints:
        """Return where the servers are. Raises RuntimeError outside the context."""
        if self._endpoints is None:
            raise RuntimeError("the embedded servers are not running")
        return self._endpoints

    async def __aenter__(self) -> Self:
        with _readable_errors(self._data_dir):
            async with AsyncExitStack() as stack:
                folders, account = self._place(stack)
                database = Postgres(folders, postgres_bin(account), account, self._postgres_options)
                store = Redis(folders, valkey_server())
                servers: tuple[Server, ...] = (database, store)
                for server in servers:  # left in the opposite order: Redis stops first
                    keeper = Keeper(server, self._report)
                    stack.push_async_callback(keeper.stop)
                    await keeper.start()
                self._endpoints = Endpoints(database_url=database.url, redis_url=store.url)
                stack.callback(_publish(folders, self._endpoints))
                self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._endpoints = None
        await self._stack.aclose()

    def _place(self, stack: AsyncExitStack) -> tuple[Folders, Account | None]:
        """Take the locks and make the folders: blocks for some milliseconds."""
        account = server_account(self._report)
        home = make_home(self._data_dir, account)
        stack.enter_context(locked(home))
        data_home = postgres_home(home, account, self._report)
        if data_home != home:  # a copied data folder points to the same one
            stack.enter_context(locked(data_home))
        return make_folders(home, data_home, account), account


class Server(Protocol):
    """What `Postgres` and `Redis` have in common."""

    @property
    def program(self) -> Program: ...

    async def prepare(self, report: Callable[[str], None]) -> None: ...

    async def clear(self, report: Callable[[str], None]) -> None: ...

    def ready(self, pid: int) -> bool: ...


class Keeper:
    """One server, from `start` to `stop`."""

    def __init__(self, server: Server, report: Callable[[str], None]) -> None:
        self._server, self._report = server, report
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once the server is ready. Raises ServerFailed after FIRST_START_ATTEMPTS; then nothing runs."""
        await self._server.prepare(self._report)
        self._report(f"Starting {self._server.program.name} ...")
        for attempt in range(1, FIRST_START_ATTEMPTS + 1):
            try:
                await self._start_once()
                break
            except ServerFailed:
                if attempt == FIRST_START_ATTEMPTS:
                    raise
                await asyncio.sleep(FIRST_START_DELAY_S)
        self._watch = asyncio.create_task(self._restart_for_ever(), name=f"watch {self._server.program.name}")

    async def stop(self) -> None:
        """Stop the server, if it runs. May be called in any state."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        if self._process is not None:
            await process.stop(self._server.program, self._process)

    async def _start_once(self) -> None:
        await self._server.clear(self._report)
        self._process = await process.start(self._server.program, self._server.ready)

    async def _restart_for_ever(self) -> None:
        name, delay_s = self._server.program.name, 0.0
        while self._process is not None:
            started = time.monotonic()
            code = await self._process.wait()
            if time.monotonic() - started >= STABLE_AFTER_S:
                delay_s = 0.0
            _log.warning("%s ended (code %d); starting it again in %.1f s", name, code, delay_s)
            while True:
                await asyncio.sleep(delay_s)
                delay_s = min(max(delay_s * 2, RESTART_DELAY_S), RESTART_DELAY_LIMIT_S)
                try:
                    await self._start_once()
                except (ServerFailed, OSError) as error:
                    _log.error("%s (next attempt in %.1f s)", error, delay_s)
                else:
                    _log.warning("%s runs again", name)
                    break


def running(data_dir: Path) -> Endpoints | None:
    """Return the endpoints of servers that a live process keeps on this data folder and that accept connections; else
    None.

    Blocks for at most two seconds. Raises PermissionError for a data folder of another user.
    """
    home = data_dir.resolve()
    if not held(home):
        return None
    try:
        published = json.loads((home / _ENDPOINTS_NAME).read_bytes())
    except FileNotFoundError:
        return None
    if not (postgres_answers(Path(published["postgres_socket"])) and redis_answers(Path(published["redis_socket"]))):
        return None
    return Endpoints(database_url=published["database_url"], redis_url=published["redis_url"])


def _publish(folders: Folders, endpoints: Endpoints) -> Callable[[], None]:
    """Write where the servers are, for `running`; returns what takes it back."""
    file = folders.home / _ENDPOINTS_NAME
    content = {
        "database_url": endpoints.database_url,
        "redis_url": endpoints.redis_url,
        "postgres_socket": str(folders.postgres_socket),
        "redis_socket": str(folders.redis_socket),
    }
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(content))
    temporary.replace(file)
    return lambda: file.unlink(missing_ok=True)


@contextmanager
def _readable_errors(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except ServerFailed as error:
        if NO_SPACE in str(error):  # the last lines of a server's log
            raise EmbeddedServersError(_no_space(data_dir, error)) from error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EmbeddedServersError(_no_space(data_dir, error)) from error
        raise EmbeddedServersError(f"Cannot use {data_dir} as the data folder: {error}") from error


def _no_space(data_dir: Path, error: Exception) -> str:
    existing = next((each for each in (data_dir, *data_dir.parents) if each.exists()), data_dir)
    free_mib = shutil.disk_usage(existing).free / MIB
    return (
        f"{NO_SPACE}: {data_dir} is on a disk with {free_mib:.1f} MiB free, and the servers' first start takes about "
        f"{FIRST_START_MIB} MiB. Free some, or choose another METERGATE_DATA_DIR.\n{error}"
    )
