"""Redis as the engine sees it: one server, or a cluster whose slots are followed.

Each key is asked of the server that has its slot. In a cluster everything that one call touches has one hash tag and so
one slot. Scripts go only over the connection on which `connect` was called for their tag: its caller learns which
session that is before anything is sent, and when the connection breaks, or a reply says that another server has the
slot, nothing more is sent until it is called again. Redirections are not followed: where MOVED leads another session
begins, and where ASK leads is half a partition. What a server says of slots (`Shard`) may be out of date.

Of each server plain commands have a connection of their own, so that no script call waits behind a long reply. The
client library serves TLS, options of URLs and subscriptions; it is imported where it is needed, because that takes
longer than all that a command does on a server at an address without options.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from binascii import crc_hqx
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from billing.holds.redis.connection import (
    NO_REDIS,
    Argument,
    OnReply,
    RedisAway,
    RedisConnection,
    RedisError,
    RedisRefused,
    RedisStrange,
    RedisTimeout,
    RedisUnfit,
    Script,
    ServerSession,
    in_time,
    info_fields,
)
from billing.work import SingleFlight

if TYPE_CHECKING:
    from ssl import SSLContext

    from redis.asyncio import Redis


logger = logging.getLogger(__name__)


CLIENT_NAME: Final = "metergate"
LISTEN_PING_S: Final = 5.0
SLOTS: Final = 16_384

# The settings in a URL, as the client library reads it. They may contain a password, and are never shown.
Where = dict[str, Any]
# Settings that are always valid; the client library checks all others.
_PLAIN: Final = frozenset({"host", "port", "db", "path", "username", "password"})


# All of a query that is read without the library, whose import takes a tenth of a second.
_DATABASE: Final = re.compile("db=([0-9]{1,9})")


def load_library() -> None:
    """Load the client library now, for a process that is going to listen."""
    import redis.asyncio  # noqa: F401


def parse_url(url: str) -> Where:
    """Return the server's settings in a URL, read as the client library reads it. Raises `ValueError`."""
    parts = urlsplit(url)
    numbered = _DATABASE.fullmatch(parts.query)
    if parts.scheme not in ("redis", "unix") or (parts.query and numbered is None):
        from redis.asyncio import connection

        return dict(connection.parse_url(url))
    found: Where = {}
    if parts.username:
        found["username"] = unquote(parts.username)
    if parts.password:
        found["password"] = unquote(parts.password)
    if numbered is not None:
        found["db"] = int(numbered[1])
    if parts.scheme == "unix":
        return {**found, "path": unquote(parts.path)} if parts.path else found
    if parts.hostname:
        found["host"] = unquote(parts.hostname)
    if parts.port:
        found["port"] = parts.port
    with suppress(ValueError):  # any other path has no meaning
        found.setdefault("db", int(unquote(parts.path).replace("/", "")))
    return found


def key_slot(key: bytes) -> int:
    """Return the slot of a key in a cluster, by its hash tag where it has one. Source:
    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags."""
    begin = key.find(b"{") + 1
    end = key.find(b"}", begin) if begin else -1
    return crc_hqx(key[begin:end] if end > begin else key, 0) % SLOTS


class Server:
    """Connects when it is used, and again after the connection broke. `on_lost` is called when it breaks."""

    def __init__(self, where: Where, on_lost: Callable[[], None], *, connect_timeout_s: float) -> None:
        self._where = where
        self._connect_timeout_s = connect_timeout_s
        self._on_lost = on_lost
        self._connecting: SingleFlight[RedisConnection] = SingleFlight()
        self._connection: RedisConnection | None = None
        self._plain: RedisConnection | None = None
        self._client: Redis | None = None
        if not where.keys() <= _PLAIN:
            self._library()  # which refuses options that there are not

    def _library(self) -> Redis:
        """Return the library's client of this server, made once. Raises `RedisStrange`."""
        if self._client is not None:
            return self._client
        import redis.asyncio
        from redis.asyncio.connection import SSLConnection
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        where = self._where
        options = {name: value for name, value in where.items() if name != "connection_class"}
        if where.get("connection_class") is SSLConnection:
            options["ssl"] = True
        if "path" in options:
            options["unix_socket_path"] = options.pop("path")
        options["socket_connect_timeout"] = self._connect_timeout_s
        # With a timeout of its own the library writes under `wait_for`: it swallows cancellations before Python 3.12.
        options["socket_timeout"] = None
        options["client_name"] = CLIENT_NAME
        # Retry once, at once: a connection that broke while idle is noticed when it is used. The caller waits
        # otherwise.
        options["retry"] = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        try:
            self._client = redis.asyncio.Redis(**options)
        except (TypeError, ValueError) as error:
            raise RedisStrange("REDIS_URL has an option that there is not") from error
        return self._client

    def __repr__(self) -> str:
        return f"Server({self.name}, {'up' if self._connection and self._connection.alive else 'down'})"

    @property
    def name(self) -> str:
        """Return where it is, without a secret."""
        return str(self._where.get("path") or f"{self.host}:{self._where.get('port', 6379)}")

    @property
    def host(self) -> str:
        """Return the host that the server is asked at."""
        return str(self._where.get("host", "localhost"))

    async def connect(self) -> RedisConnection:
        """Return the connection for script calls, opened where it is not; concurrent callers share the attempt.

        Raises `RedisAway`.
        """
        if self._connection is None or not self._connection.alive:
            self._connection = await self._connecting.run("scripts", lambda: self._connect(self._on_lost))
        return self._connection

    async def _connect(self, on_lost: Callable[[], None]) -> RedisConnection:
        tls = _tls(self._where)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._open(on_lost, tls)
        except RedisStrange as error:
            raise self._strange(error) from error
        except RedisError as error:
            raise RedisAway(f"Redis at {self.name} does not serve us: {error}") from error
        except (OSError, TimeoutError) as error:
            raise RedisAway(f"Redis at {self.name} is away: {type(error).__name__}") from error
        except (TypeError, ValueError) as error:  # a name with a NUL or with a label of more than 63 letters
            raise RedisStrange("REDIS_URL names a place that there can't be") from error

    async def _open(self, on_lost: Callable[[], None], tls: SSLContext | None) -> RedisConnection:
        loop, where = asyncio.get_running_loop(), self._where

        def make() -> RedisConnection:
            return RedisConnection(on_lost)

        if "path" in where:
            _, connection = await loop.create_unix_connection(make, where["path"])
        else:
            _, connection = await loop.create_connection(make, self.host, where.get("port", 6379), ssl=tls)
        try:
            if where.get("password"):
                names = [where["username"]] if where.get("username") else []
                try:
                    await connection.ask(["AUTH", *names, where["password"]], self._connect_timeout_s)
                except RedisRefused as error:  # a server without a password refuses every one
                    raise RedisStrange(str(error)) from error
            if where.get("db"):
                await connection.ask(["SELECT", where["db"]], self._connect_timeout_s)
            await connection.ask(["CLIENT", "SETNAME", CLIENT_NAME], self._connect_timeout_s)
        except BaseException:  # also cancelled: nobody else has the connection yet
            connection.close()
            raise
        return connection

    def _strange(self, error: RedisStrange) -> RedisStrange:
        """Name the server in a failure that waiting does not mend. Its own text may repeat what was sent: not shown."""
        if error.args == (NO_REDIS,):
            return RedisStrange(f"what answers at {self.name} is no Redis")
        return RedisStrange(f"Redis at {self.name} does not take this user and password")

    async def command(self, *command: Argument) -> Any:
        """Return the reply to a plain command, as RESP2 has it. One that finds its idle connection broken is sent once
        more over a new one. Raises `RedisError`."""
        for _ in range(2):
            idle = self._plain is not None and self._plain.alive
            connection = await self._plain_connection()
            try:
                return await self._ask(connection, command)
            except RedisStrange:
                raise
            except RedisAway:
                if not idle:
                    raise
        raise RedisAway(f"Redis at {self.name}: the connection broke twice")

    async def _plain_connection(self) -> RedisConnection:
        if self._plain is None or not self._plain.alive:
            self._plain = await self._connecting.run("commands", lambda: self._connect(_nothing))
        return self._plain

    async def _ask(self, connection: RedisConnection, command: tuple[Argument, ...]) -> Any:
        try:
            return await connection.ask(command, self._connect_timeout_s)
        except RedisStrange as error:
            raise self._strange(error) from error
        except RedisTimeout:
            connection.close()  # what waits behind it on a connection to a host that is gone would wait for minutes
            raise

    async def info(self, *sections: str) -> dict[str, str | int]:
        """Return the fields of INFO, of these sections or the usual ones. Raises `RedisError`."""
        return info_fields(await self.command("INFO", *sections))

    async def scan_hash(self, key: Argument, count: int) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yield every field and value of a hash, one page after the other. Raises `RedisError`."""
        cursor = b"0"
        while True:
            cursor, page = await self.command("HSCAN", key, cursor, "COUNT", count)
            for field, value in zip(page[::2], page[1::2], strict=True):
                yield field, value
            if cursor == b"0":
                return

    async def listen(self, channel: str, on_subscribed: Callable[[], None]) -> AsyncIterator[bytes]:
        """Yield messages of a channel until the connection breaks, or is silent for LISTEN_PING_S after a ping too.

        Raises `RedisAway` then.
        """
        from redis.exceptions import RedisError as LibraryError

        try:
            async with self._library().pubsub() as subscription:
                async with asyncio.timeout(self._connect_timeout_s):
                    await subscription.subscribe(channel)
                pinged = False
                while True:
                    async with asyncio.timeout(LISTEN_PING_S + self._connect_timeout_s):  # it may connect again
                        message = await subscription.get_message(timeout=LISTEN_PING_S)
                    if message is not None and message["type"] == "subscribe":
                        on_subscribed()
                    elif message is not None and message["type"] == "message":
                        yield message["data"]
                    elif message is None and pinged:
                        raise RedisAway("the subscription is silent")
                    elif message is None:
                        async with asyncio.timeout(self._connect_timeout_s):
                            await subscription.ping()
                    pinged = message is None
        except (LibraryError, OSError, TimeoutError) as error:
            raise RedisAway(f"the subscription broke: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close all connections."""
        for connection in (self._connection, self._plain):
            if connection is not None:
                connection.close()
        if self._client is not None:
            await self._client.aclose()


def _nothing() -> None:
    """Do nothing: a connection for plain commands that is lost is made anew with the next command."""


def _tls(where: Where) -> SSLContext | None:
    """Return what the client library makes of the URL's `ssl_…` options; None without TLS. Raises `RedisStrange`."""
    if "connection_class" not in where:
        return None
    from redis.asyncio.connection import SSLConnection
    from redis.exceptions import RedisError as LibraryError

    if where["connection_class"] is not SSLConnection:
        return None
    options = {name: value for name, value in where.items() if name.startswith("ssl_")}
    try:
        return SSLConnection(**options).ssl_context.get()
    except OSError as error:  # a file that is missing, or is no certificate
        reason = getattr(error, "reason", None) or error.strerror or error
        raise RedisStrange(f"REDIS_URL has an ssl_ option whose file or value can't be used: {reason}") from error
    except (LibraryError, TypeError, ValueError) as error:
        raise RedisStrange("REDIS_URL has an ssl_ option with a value that there can't be") from error


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
