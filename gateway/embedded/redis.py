"""The embedded Redis (Valkey): its configuration, when it is ready."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from urllib.parse import quote

from gateway.embedded.folders import Folders
from gateway.embedded.process import Program, read_pid, stop_orphan

SHUTDOWN_S = 20.0  # SIGTERM: the append-only file is written and synced
_PING_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Redis:
    """The server of one data folder."""

    folders: Folders
    binary: Path

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.folders.redis_socket))}"

    @property
    def program(self) -> Program:
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
        pid = read_pid(self.folders.redis_pid)
        if await stop_orphan(self.program, pid, (self.binary.name, str(self.folders.redis_conf))):
            report(f"Stopped a Redis that an earlier run had left behind (process {pid}).")

    def ready(self, pid: int) -> bool:
        """Whether the server with this process id answers: it has written its pid file, and has loaded its data."""
        return read_pid(self.folders.redis_pid) == pid and answers(self.folders.redis_socket)

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


def answers(redis_socket: Path) -> bool:
    """Whether a Redis on this socket answers PING with PONG: not while it loads. Blocks for at most _PING_TIMEOUT_S."""
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
