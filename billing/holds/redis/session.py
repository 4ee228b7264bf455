"""A session with one Redis server, over one connection, and whether a server is set up to keep what it is sent.

This file owns when what was agreed on with a server stops to hold: with the connection, or with a reply that says that
the server is not, or no longer, the one to ask. A session that has ended never stands again. A server that evicts loses
journals and balances one key at a time, for as long as its memory is full: no epoch is new enough for that.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from billing.holds.redis.connection import RedisError, RedisMoved, RedisTimeout, RedisUnfit, info_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing.holds.redis.client import RedisClient
    from billing.holds.redis.connection import Argument, OnReply, RedisConnection, Script
    from billing.holds.redis.server import Server

MASTER: Final = "master"


class ServerSession:
    """`on_doubt` is told when a reply ends it."""

    __slots__ = ("_ended", "_on_doubt", "_replication_id", "_timeout_s", "connection")

    def __init__(self, connection: RedisConnection, timeout_s: float, on_doubt: Callable[[], None]) -> None:
        self.connection = connection
        self._timeout_s = timeout_s
        self._on_doubt = on_doubt
        self._ended = False
        self._replication_id = ""

    def __repr__(self) -> str:
        return f"ServerSession({'stands' if self.stands else 'ended'})"

    @property
    def stands(self) -> bool:
        """Return whether what was agreed on with the server still holds."""
        return self.connection.alive and not self._ended

    def end(self) -> None:
        """End the session: the server is not the one to ask any more."""
        if not self._ended:
            self._ended = True
            self._on_doubt()

    def call(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Call a script without waiting, after the caller has checked that this server's life stands; `on_reply` gets
        the reply or a `RedisError`, always and once."""

        def answered(reply: Any) -> None:
            if isinstance(reply, RedisMoved):
                self.end()
            on_reply(reply)

        self.connection.call(script, keys, arguments, answered)

    async def ask(self, *command: Argument) -> Any:
        """Send a plain command on this connection, and no other. One that gives no answer in time is given up: what
        waits behind it on a connection to a host that is gone would wait for minutes. Raises `RedisError`.
        """
        try:
            return await self.connection.ask(command, self._timeout_s)
        except RedisTimeout:
            self.connection.close()
            raise
        except RedisMoved:
            self.end()
            raise

    async def identity(self) -> str:
        """Return what names the server's life: another one after a restart or a failover.

        Raises `RedisMoved` where it is a replica, else as `ask`.
        """
        server = info_fields(await self.ask("INFO", "server"))
        self._replication_id = await self._read_replication_id()
        return f"{server['run_id']}:{self._replication_id}"

    async def has_changed(self) -> bool:
        """Return whether the server has been a replica since its identity was asked for, behind this connection's back.

        Raises as `identity`.
        """
        return await self._read_replication_id() != self._replication_id

    async def _read_replication_id(self) -> str:
        replication = info_fields(await self.ask("INFO", "replication"))
        if replication.get("role") != MASTER:
            self.end()
            self.connection.close()  # so that its name is looked up again: it may lead to the master then
            raise RedisMoved("the server is a replica")
        return str(replication["master_replid"])

    async def time_ms(self) -> int:
        """Return the server's clock in Unix milliseconds. Raises as `ask`."""
        seconds, micros = await self.ask("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


logger = logging.getLogger(__name__)

NO_EVICTION: Final = "noeviction"


async def refuse_eviction(client: RedisClient) -> None:
    """Look at every server, replicas too: they are masters one day. One that is away, or does not say, is passed over.

    Raises `RedisUnfit` where one evicts, `RedisAway` where none answers.
    """
    servers = [server for shard in await client.shards() for server in (shard.master, *shard.replicas)]
    for server, policy in zip(servers, await asyncio.gather(*map(_policy, servers)), strict=True):
        if policy is None:
            logger.warning("%s does not say whether it evicts: see that maxmemory-policy is noeviction", server.name)
        elif policy != NO_EVICTION:
            raise RedisUnfit(
                f"{server.name} has maxmemory-policy {policy} and may forget debits: set it to {NO_EVICTION}"
            )


async def _policy(server: Server) -> str | None:
    try:
        policy = (await server.info("memory")).get("maxmemory_policy")
    except RedisError:
        return None
    return None if policy is None else str(policy)
