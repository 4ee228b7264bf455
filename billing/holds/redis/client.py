"""Redis as the engine sees it: one server, or a cluster whose slots are followed.

Each key is asked of the server that has its slot. In a cluster everything that one call touches has one hash tag and so
one slot. Scripts go only over the connection on which `connect` was called for their tag: its caller learns which
session that is before anything is sent, and when the connection breaks, or a reply says that another server has the
slot, nothing more is sent until it is called again. Redirections are not followed: where MOVED leads another session
begins, and where ASK leads is half a partition. What a server says of slots (`Shard`) may be out of date.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from billing.holds.redis.connection import (
    Argument,
    OnReply,
    RedisAway,
    RedisError,
    RedisStrange,
    RedisUnfit,
    Script,
    ServerSession,
    in_time,
)
from billing.holds.redis.server import Server, Where, key_slot, parse_url
from billing.holds.singleflight import SingleFlight

if TYPE_CHECKING:
    from billing.holds.redis.connection import Argument, OnReply, Script
    from billing.holds.redis.server import Server

logger = logging.getLogger(__name__)

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots from `first` to `last`, both included. `replicas` are those that have not failed; one that is new is listed
    once its master has written to it, or 10 s later."""

    first: int
    last: int
    master: Server
    replicas: tuple[Server, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """A master with its replicas, and how many slots it has: 0 outside a cluster."""

    master: Server
    replicas: tuple[Server, ...]
    slots: int


def read_slots(
    reply: Iterable[Sequence[Any]], asked_host: str, server_at: Callable[[Address], Server]
) -> list[SlotRange]:
    """Return the reply to CLUSTER SLOTS of a server at `asked_host`; `server_at` answers one server for each
    address."""
    ranges = []
    for first, last, *places in reply:
        master, *replicas = (server_at(_address(place, asked_host)) for place in places)
        ranges.append(SlotRange(first, last, master, tuple(replicas)))
    return ranges


def shards_of(ranges: Iterable[SlotRange]) -> tuple[Shard, ...]:
    """Return the masters, in the order of their slots. Every range of a master has the same replicas."""
    shards: dict[Server, Shard] = {}
    for each in ranges:
        before = shards[each.master].slots if each.master in shards else 0
        shards[each.master] = Shard(each.master, each.replicas, before + each.last - each.first + 1)
    return tuple(shards.values())


def _address(place: Sequence[Any], asked_host: str) -> Address:
    """Return a node's address in the reply to CLUSTER SLOTS, which leaves out the host where it does not know it: that
    of the node that was asked is meant (https://redis.io/docs/latest/commands/cluster-slots/)."""
    host = place[0].decode() if isinstance(place[0], bytes) else place[0]
    return host or asked_host, int(place[1])


REFRESH_AT_MOST_EVERY_S: Final = 0.1
# Bytes of a socket's path: Linux takes 108 with a zero at the end (https://man7.org/linux/man-pages/man7/unix.7.html).
MOST_SOCKET_PATH: Final = 107
# A server that says nothing of its slots for so long, or for `timeout_s` where that is longer, is passed over.
ASK_TOPOLOGY_S: Final = 1.0


def _check_place(url: str) -> None:
    """Refuse a URL of which the client library passes over a part without a word, or which leads nowhere. Raises
    `RedisStrange`, and `ValueError` for a port that is no number."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme == "unix":
        if len(os.fsencode(path)) > MOST_SOCKET_PATH:
            raise RedisStrange(
                f"REDIS_URL names a socket by a path of more than {MOST_SOCKET_PATH} bytes: link a shorter one"
            )
        return
    if parts.port == 0:
        raise RedisStrange("REDIS_URL has port 0: name another, or leave it out for 6379")
    database = path.replace("/", "")
    if database and not (database.isascii() and database.isdecimal()):
        raise RedisStrange("REDIS_URL ends with a path that is no number of a database, such as /0")


class RedisClient:
    """Redis at a `redis://`, `rediss://` or `unix://` URL; any node's URL leads to a cluster. Raises `RedisStrange` for
    a URL whose options no server can have."""

    def __init__(self, url: str, *, timeout_s: float = 0.5, connect_timeout_s: float = 5.0) -> None:
        try:
            _check_place(url)
            self._seed_where: Where = dict(parse_url(url))
        except ValueError as error:
            raise RedisStrange("REDIS_URL has an option or a number that there can't be") from error
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._ask_topology_s = max(ASK_TOPOLOGY_S, timeout_s)
        self._seed = self._make(self._seed_where)
        self._nodes: dict[Address, Server] = {}
        self._ranges: list[SlotRange] | None = None
        self._answering = self._seed
        self._sessions: dict[bytes, ServerSession] = {}
        self._stale_marks = 1
        self._stale_cleared = 0
        self._refresh_not_before = float("-inf")
        self._refreshes: SingleFlight[None] = SingleFlight()

    def __repr__(self) -> str:
        return f"RedisClient({self.topology})"

    @property
    def topology(self) -> str:
        """Return what this is, in words for an operator; known once it was used."""
        if self._ranges is None:
            return f"one server at {self._seed.name}"
        return f"a cluster of {len(shards_of(self._ranges))} masters"

    def _make(self, where: Where) -> Server:
        return Server(where, self._mark_stale, connect_timeout_s=self._connect_timeout_s)

    def _mark_stale(self) -> None:
        """Ask for the slots before the next connection is made: what is known of the servers may have changed."""
        self._stale_marks += 1

    async def connect(self, key: Argument = b"") -> ServerSession:
        """Return the session, at this moment, with the server that has a key; scripts on keys of the same tag are sent
        to it for as long as it stands. Raises `RedisError`.
        """
        tag = _tag(key)
        session = self._sessions.get(tag)
        if session is not None and session.stands:
            return session
        server = await self._server_for(key)
        try:
            connection = await server.connect()
        except RedisAway:
            self._mark_stale()
            raise
        session = self._sessions.get(tag)
        if session is None or not session.stands:  # one session at a time: who else connected meanwhile has the same
            session = self._sessions[tag] = ServerSession(connection, self._timeout_s, self._mark_stale)
        return session

    async def _server_for(self, key: Argument) -> Server:
        """Return the server that has a key, after asking for the slots where they may have changed. Raises
        `RedisError`."""
        for _ in range(2):  # the first may join a reading that had begun before
            if self._stale_cleared != self._stale_marks:
                await self._refreshes.run("slots", self._refresh)
        if self._ranges is None:
            return self._seed
        slot = key_slot(key if isinstance(key, bytes) else str(key).encode())
        for each in self._ranges:
            if each.first <= slot <= each.last:
                return each.master
        raise RedisAway(f"no server of the cluster has slot {slot}")

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._refresh_not_before - loop.time()))
        marks = self._stale_marks
        failure: RedisError = RedisAway("Redis is away")
        for server in dict.fromkeys((self._answering, self._seed, *self._nodes.values())):
            try:
                async with asyncio.timeout(self._ask_topology_s):
                    await self._read_topology(server)
            except RedisError as error:
                failure = error
            except TimeoutError:
                failure = RedisAway(f"Redis at {server.name}: no answer within {self._ask_topology_s:g} s")
            else:
                self._answering = server
                self._stale_cleared = marks
                break
        self._refresh_not_before = loop.time() + REFRESH_AT_MOST_EVERY_S
        if self._stale_cleared != marks:
            raise failure

    async def _read_topology(self, server: Server) -> None:
        if not (await server.info("cluster")).get("cluster_enabled"):
            self._ranges = None
            return
        nodes: dict[Address, Server] = {}

        def server_at(address: Address) -> Server:
            nodes[address] = nodes.get(address) or self._nodes.get(address) or self._make(self._where(address))
            return nodes[address]

        ranges = read_slots(await server.command("CLUSTER", "SLOTS"), server.host, server_at)
        gone = [node for address, node in self._nodes.items() if address not in nodes]
        self._nodes, self._ranges = nodes, ranges
        for node in gone:
            await node.close()

    def _where(self, address: Address) -> Where:
        own = {name: value for name, value in self._seed_where.items() if name not in ("path", "db")}
        return {**own, "host": address[0], "port": address[1]}

    def send(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Call a script without waiting; `on_reply` gets the reply or a `RedisError`, always and once."""
        session = self._sessions.get(_tag(keys[0]))
        if session is None or not session.stands:
            on_reply(RedisAway("Redis is away"))
        else:
            session.call(script, keys, arguments, on_reply)

    async def call(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        """Call a script and wait for its reply. Raises `RedisError`."""
        if (
            _tag(keys[0]) not in self._sessions
        ):  # the first connection; after a loss it is for the handshake to make one
            await self.connect(keys[0])
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(script, keys, arguments, lambda reply: None if answer.done() else answer.set_result(reply))
        return await in_time(answer, self._timeout_s, script.name)

    async def command(self, *command: Argument) -> Any:
        """Return the reply to a plain command of the server that has its first argument. Raises `RedisError`."""
        server = await self._server_for(command[1] if len(command) > 1 else b"")
        try:
            return await server.command(*command)
        except RedisError:
            self._mark_stale()
            raise

    async def info(self, *sections: str) -> dict[str, str | int]:
        """Return the fields of INFO of a server that answers. Raises `RedisError`."""
        return await (await self._any()).info(*sections)

    async def scan_hash(self, key: Argument, count: int) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yield every field and value of a hash, without holding the server up. Raises `RedisError`."""
        server = await self._server_for(key)
        async for field, value in server.scan_hash(key, count):
            yield field, value

    async def listen(self, channel: str, on_subscribed: Callable[[], None]) -> AsyncIterator[bytes]:
        """Yield messages of a channel until the connection breaks; a cluster passes them on to all its nodes.

        Raises `RedisError` then.
        """
        async for message in (await self._any()).listen(channel, on_subscribed):
            yield message

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell every subscriber. Raises `RedisError`."""
        try:
            await (await self._any()).command("PUBLISH", channel, message)
        except RedisError:
            self._mark_stale()
            raise

    async def _any(self) -> Server:
        """Return a server that answers: of a cluster it need not be the one that has the slot. Raises `RedisError`."""
        if self._stale_cleared != self._stale_marks:
            await self._refreshes.run("slots", self._refresh)
        return self._answering

    async def shards(self) -> tuple[Shard, ...]:
        """Return every master that has slots, with its replicas; without a cluster, or slots in it, the one server that
        answers. Raises `RedisError`."""
        answering = await self._any()
        return shards_of(self._ranges or ()) or (Shard(answering, (), 0),)

    async def close(self) -> None:
        """Close all connections."""
        for server in (self._seed, *self._nodes.values()):
            await server.close()


def _tag(key: Argument) -> bytes:
    """Return what decides on a key's slot, for keys that begin with their hash tag."""
    raw = key if isinstance(key, bytes) else str(key).encode()
    return raw[: raw.find(b"}") + 1] or raw


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
