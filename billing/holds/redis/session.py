"""A session with one Redis server, over one connection.

This file owns when what was agreed on with a server stops to hold: with the connection, or with a reply that says that
the server is not, or no longer, the one to ask. A session that has ended never stands again.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from billing.holds.redis.connection import Argument, OnReply, RedisConnection, Script
from billing.holds.redis_errors import RedisMoved, RedisTimeout

MASTER: Final = "master"


class ServerSession:
    """`on_doubt` is told when a reply ends it."""

    __slots__ = ("_ended", "_on_doubt", "_replication_id", "_timeout_s", "wire")

    def __init__(self, wire: RedisConnection, timeout_s: float, on_doubt: Callable[[], None]) -> None:
        self.wire = wire
        self._timeout_s = timeout_s
        self._on_doubt = on_doubt
        self._ended = False
        self._replication_id = ""

    def __repr__(self) -> str:
        return f"ServerSession({'stands' if self.stands else 'ended'})"

    @property
    def stands(self) -> bool:
        """Whether what was agreed on with the server still holds."""
        return self.wire.alive and not self._ended

    def end(self) -> None:
        """The server is not the one to ask any more."""
        if not self._ended:
            self._ended = True
            self._on_doubt()

    def call(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Call a script without waiting, for whoever has seen that this life stands; `on_reply` gets the reply or a
        `RedisError`, always and once."""

        def answered(reply: Any) -> None:
            if isinstance(reply, RedisMoved):
                self.end()
            on_reply(reply)

        self.wire.call(script, keys, arguments, answered)

    async def ask(self, *command: Argument) -> Any:
        """A plain command on this connection, and no other. One that gives no answer in time is given up: what waits
        behind it on a connection to a host that is gone would wait for minutes. Raises `RedisError`.
        """
        try:
            return await self.wire.ask(command, self._timeout_s)
        except RedisTimeout:
            self.wire.close()
            raise
        except RedisMoved:
            self.end()
            raise

    async def identity(self) -> str:
        """What names the server's life: another one after a restart or a failover.

        Raises `RedisMoved` where it is a replica, else as `ask`.
        """
        server = _fields(await self.ask("INFO", "server"))
        self._replication_id = await self._read_replication_id()
        return f"{server['run_id']}:{self._replication_id}"

    async def has_changed(self) -> bool:
        """Whether the server has been a replica since its identity was asked for, behind this connection's back.

        Raises as `identity`.
        """
        return await self._read_replication_id() != self._replication_id

    async def _read_replication_id(self) -> str:
        replication = _fields(await self.ask("INFO", "replication"))
        if replication.get("role") != MASTER:
            self.end()
            self.wire.close()  # so that its name is looked up again: it may lead to the master then
            raise RedisMoved("the server is a replica")
        return replication["master_replid"]

    async def time_ms(self) -> int:
        """The server's clock in Unix milliseconds. Raises as `ask`."""
        seconds, micros = await self.ask("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def _fields(info: bytes) -> dict[str, str]:
    """What INFO says (https://redis.io/docs/latest/commands/info/): a field a line."""
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
