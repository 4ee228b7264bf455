"""The embedded Postgres and the embedded Redis (Valkey): their settings, and when each is ready.

Invariant kept here: the data is either whole, with the database `metergate` in it, or not there: it is made under
another name and renamed. Who may connect is written at each start: the kernel tells the server which user asks
(`peer`), and ours, root and the server's own are let in, without any password that could leak. No TCP port is open.
"""

import os
import shutil
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGQUIT, SIGTERM
from urllib.parse import quote

from gateway.embedded.account import Account, user_name
from gateway.embedded.folders import Folders, hand_over, take_over, write_private
from gateway.embedded.process import Marks, Program, Stop, read_pid, run_to_end, stop_children_left_in, stop_orphans

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
        if pid is not None and _exists(pid) and read_pid(record) == pid:
            # Another program has the number now. Postgres would take it for itself and refuse to start.
            record.unlink(missing_ok=True)

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
