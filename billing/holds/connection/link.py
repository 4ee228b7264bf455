"""Redis as the engine sees it: one server, or a cluster whose slots are followed.

This file owns which server a key is asked of. In a cluster everything that one call touches has one hash tag and so one
slot; a reply that says another server has it changes nothing there, and makes the slots be read anew.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from billing.holds.connection.errors import RedisAway, RedisError, RedisMoved, RedisTimeout
from billing.holds.connection.server import Server, Where, key_slot, parse_url
from billing.holds.connection.wire import Argument, OnReply, Script

logger = logging.getLogger(__name__)

REFRESH_AT_MOST_EVERY_S: Final = 0.1
MAX_TAGS: Final = 10_000


class Link:
    """Redis at a `redis://`, `rediss://` or `unix://` URL; any node's URL leads to a cluster.

    `on_lost` is called when a connection broke or a slot has moved: what was agreed on with a server no longer holds.
    """

    def __init__(self, url: str, *, timeout_s: float = 0.5, connect_timeout_s: float = 5.0) -> None:
        self._seed_where: Where = dict(parse_url(url))
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._seed = self._make(self._seed_where)
        self._servers: dict[tuple[str, int], Server] = {}
        self._ranges: list[tuple[int, int, Server]] | None = None
        self._by_tag: dict[bytes, Server] = {}
        self._known = False
        self._refreshed_at = float("-inf")
        self._refreshing = asyncio.Lock()
        self.on_lost: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"Link({self.topology})"

    @property
    def topology(self) -> str:
        """In words, for an operator."""
        if self._ranges is None:
            return f"one server at {self._seed.name}"
        return f"a cluster of {len({id(server) for _, _, server in self._ranges})} masters"

    def _make(self, where: Where) -> Server:
        return Server(where, lambda _: self._lost(), connect_timeout_s=self._connect_timeout_s)

    def _lost(self) -> None:
        self._known = False
        self._by_tag.clear()
        self.on_lost()

    def _server_of(self, key: Argument) -> Server | None:
        """The server that has a key, by what is known; None where no server is known to have it."""
        if self._ranges is None:
            return self._seed
        raw = key if isinstance(key, bytes) else str(key).encode()
        tag = raw[: raw.find(b"}") + 1] or raw
        server = self._by_tag.get(tag)
        if server is None:
            slot = key_slot(raw)
            for first, last, candidate in self._ranges:
                if first <= slot <= last:
                    if len(self._by_tag) >= MAX_TAGS:
                        self._by_tag.clear()
                    server = self._by_tag[tag] = candidate
        return server

    async def connect(self, key: Argument = b"") -> None:
        """Open the connection to the server that has a key, after reading the slots where they may have changed.

        Raises `RedisAway`.
        """
        if not self._known:
            await self._refresh()
        server = self._server_of(key)
        if server is None:
            raise RedisAway("no server of the cluster has this slot")
        try:
            await server.connect()
        except RedisAway:
            self._known = False
            raise

    async def _refresh(self) -> None:
        async with self._refreshing:
            if self._known and time.monotonic() - self._refreshed_at < REFRESH_AT_MOST_EVERY_S:
                return
            failure: RedisAway | None = None
            for server in (*self._servers.values(), self._seed):
                try:
                    await self._read_topology(server)
                except RedisAway as error:
                    failure = error
                    continue
                self._known, self._refreshed_at = True, time.monotonic()
                return
            raise failure or RedisAway("Redis is away")

    async def _read_topology(self, server: Server) -> None:
        info = await server.command("INFO", "cluster")
        if not info.get("cluster_enabled"):
            self._ranges = None
            return
        ranges = []
        for first, last, master, *_ in await server.command("CLUSTER", "SLOTS"):
            host, port = (master[0].decode() if isinstance(master[0], bytes) else master[0]) or server.host, master[1]
            known = self._servers.get((host, port))
            if known is None:
                where = {name: value for name, value in self._seed_where.items() if name not in ("path", "db")}
                known = self._servers[host, port] = self._make({**where, "host": host, "port": port})
            ranges.append((first, last, known))
        self._by_tag.clear()
        self._ranges = ranges

    def send(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Call a script without waiting; `on_reply` gets the reply or a `RedisError`, always and once."""
        server = self._server_of(keys[0])
        if server is None or server.wire is None:
            on_reply(RedisAway("Redis is away"))
        elif self._ranges is None:
            server.wire.call(script, keys, arguments, on_reply)
        else:
            server.wire.call(script, keys, arguments, lambda reply: self._answered(reply, on_reply))

    def _answered(self, reply: Any, on_reply: OnReply) -> None:
        if isinstance(reply, RedisMoved):
            self._lost()
        on_reply(reply)

    async def call(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        """Call a script and wait for its reply. Raises `RedisError`."""
        server = self._server_of(keys[0])
        if server is None or server.wire is None:
            await self.connect(keys[0])
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(script, keys, arguments, lambda reply: None if answer.done() else answer.set_result(reply))
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await answer
        except TimeoutError as error:
            raise RedisTimeout(f"{script.name}: no answer within {self._timeout_s} s") from error
        if isinstance(reply, RedisError):
            raise reply
        return reply

    async def command(self, *command: Argument) -> Any:
        """A plain command, asked of the server that has its first argument. Raises `RedisAway`."""
        server = await self._asked(command[1] if len(command) > 1 else b"")
        try:
            return await server.command(*command)
        except RedisAway:
            self._known = False
            raise

    async def _asked(self, key: Argument) -> Server:
        if not self._known:
            await self._refresh()
        server = self._server_of(key)
        if server is None:
            raise RedisAway("no server of the cluster has this slot")
        return server

    async def scan_hash(self, key: str, count: int) -> AsyncIterator[tuple[bytes, bytes]]:
        """Every field and value of a hash, without holding the server up. Raises `RedisAway`."""
        server = await self._asked(key)
        async for field, value in server.scan_hash(key, count):
            yield field, value

    async def identity(self, key: Argument) -> str:
        """What names this life of the server that has a key: another one after a restart or a failover.

        Raises `RedisAway`.
        """
        server = await self._asked(key)
        info, replication = await server.command("INFO", "server"), await server.command("INFO", "replication")
        return f"{info.get('run_id')}:{replication.get('master_replid')}"

    async def time_ms(self, key: Argument) -> int:
        """The clock of the server that has a key, in Unix milliseconds. Raises `RedisAway`."""
        seconds, micros = await (await self._asked(key)).command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def listen(self, channel: str, on_subscribed: Callable[[], None]) -> AsyncIterator[bytes]:
        """Messages of a channel until the connection breaks; a cluster passes them on to all its nodes.

        Raises `RedisAway` then.
        """
        server = await self._asked(channel)
        async for message in server.listen(channel, on_subscribed):
            yield message

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell every subscriber. Raises `RedisAway`."""
        await self.command("PUBLISH", channel, message)

    async def close(self) -> None:
        """Close all connections."""
        self.on_lost = lambda: None
        for server in (self._seed, *self._servers.values()):
            await server.close()
