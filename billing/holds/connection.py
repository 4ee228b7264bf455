"""Redis: the one place that imports redis and hiredis. Pipelined script calls, a few plain commands, subscriptions.

`Link` is a connection of our own for script calls: one write and one parsed reply a call, any number in flight,
without the client library's 240 µs a call. The library parses the URL and does what is rare.

    RedisError
    +-- RedisAway      no connection, or it broke: a command sent may or may not have been carried out
    +-- RedisTimeout   no answer in time: likewise
    +-- RedisRefused   the server answered with an error: nothing was done
"""

import asyncio
import hashlib
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.resources import files
from typing import Any, Final

import hiredis
import redis.asyncio as redis_client
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError as ClientError

logger = logging.getLogger(__name__)

Argument = bytes | str | int
CLIENT_NAME: Final = "metergate"


class RedisError(Exception):
    """Redis did not do what was asked. The message never holds a secret."""


class RedisAway(RedisError):
    """No connection, or it broke: what was sent may or may not have been carried out."""


class RedisTimeout(RedisError):
    """No answer in time: what was sent may or may not have been carried out."""


class RedisRefused(RedisError):
    """The server answered with an error: nothing was done."""


class Script:
    """A script with the shared state layout before it, known to the server by its SHA-1."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str) -> None:
        folder = files("billing.holds").joinpath("lua")
        self.name = name
        self.source = (folder.joinpath("_state.lua").read_text() + folder.joinpath(f"{name}.lua").read_text()).encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()

    def __repr__(self) -> str:
        return f"Script({self.name})"


class _Wire(asyncio.Protocol):
    """RESP2 over one connection: replies come in the order of the commands."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[Callable[[Any], None]] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._on_lost = on_lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  (asyncio's own contract for streams)
        self._transport = transport

    def send(self, command: Sequence[Argument], on_reply: Callable[[Any], None]) -> None:
        if self._transport is None or self._transport.is_closing():
            on_reply(RedisAway("Redis is away"))
            return
        self._waiting.append(on_reply)
        self._transport.write(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                self._waiting.popleft()(reply)
        except hiredis.ProtocolError:
            logger.warning("Redis sent what is not its protocol; closing the connection")
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            on_reply(RedisAway("the connection to Redis broke"))
        self._on_lost()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Link:
    """One server, addressed by a `redis://`, `rediss://` or `unix://` URL. Connects again by itself when used."""

    def __init__(self, url: str, *, timeout_s: float = 0.5, connect_timeout_s: float = 5.0) -> None:
        self._url = url
        self._where = parse_url(url)
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._wire: _Wire | None = None
        self._connecting = asyncio.Lock()
        self.on_lost: Callable[[], None] = lambda: None
        self.client = redis_client.Redis.from_url(
            url, socket_timeout=connect_timeout_s, socket_connect_timeout=connect_timeout_s, client_name=CLIENT_NAME
        )

    def __repr__(self) -> str:
        return f"Link({'up' if self._wire else 'down'})"

    @property
    def up(self) -> bool:
        return self._wire is not None

    def _lost(self) -> None:
        self._wire = None
        self.on_lost()

    async def connect(self) -> None:
        """Open the connection where it is not. Raises `RedisAway`."""
        async with self._connecting:
            if self._wire is None:
                try:
                    async with asyncio.timeout(self._connect_timeout_s):
                        self._wire = await self._open()
                except (OSError, TimeoutError) as error:
                    raise RedisAway(f"Redis is away: {type(error).__name__}") from error

    async def _open(self) -> _Wire:
        loop, where = asyncio.get_running_loop(), self._where

        def make() -> _Wire:
            return _Wire(self._lost)

        if "path" in where:
            _, wire = await loop.create_unix_connection(make, where["path"])
        else:
            tls = ssl.create_default_context() if where.get("connection_class") is SSLConnection else None
            _, wire = await loop.create_connection(
                make, where.get("host", "localhost"), where.get("port", 6379), ssl=tls
            )
        if where.get("password"):
            names = [where["username"]] if where.get("username") else []
            await self._ask(wire, ["AUTH", *names, where["password"]])
        if where.get("db"):
            await self._ask(wire, ["SELECT", where["db"]])
        await self._ask(wire, ["CLIENT", "SETNAME", CLIENT_NAME])
        return wire

    async def _ask(self, wire: _Wire, command: Sequence[Argument]) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        wire.send(command, lambda reply: None if answer.done() else answer.set_result(reply))
        reply = await answer
        if isinstance(reply, hiredis.ReplyError):
            wire.close()
            raise RedisAway(f"Redis refused {command[0]!s}")
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def send(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: Callable[[Any], None]
    ) -> None:
        """Call a script without waiting; `on_reply` gets the reply or a `RedisError`, always and once.

        A server that does not know the script is sent its text, once: it has done nothing before.
        """
        wire = self._wire
        if wire is None:
            on_reply(RedisAway("Redis is away"))
            return

        def answered(reply: Any) -> None:
            if isinstance(reply, hiredis.ReplyError):
                if str(reply).startswith("NOSCRIPT"):
                    wire.send(["EVAL", script.source, len(keys), *keys, *arguments], refused)
                else:
                    refused(reply)
            else:
                on_reply(reply)

        def refused(reply: Any) -> None:
            on_reply(RedisRefused(f"{script.name}: {reply}") if isinstance(reply, hiredis.ReplyError) else reply)

        wire.send(["EVALSHA", script.sha, len(keys), *keys, *arguments], answered)

    async def call(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        """Call a script and wait for its reply. Raises `RedisError`."""
        if self._wire is None:
            await self.connect()
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
        """A plain command through the client library. Raises `RedisError`."""
        try:
            return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]
        except (ClientError, OSError, TimeoutError) as error:
            raise RedisAway(f"Redis is away: {type(error).__name__}") from error

    async def scan_hash(self, key: str, count: int) -> AsyncIterator[tuple[bytes, bytes]]:
        """Every field and value of a hash, without holding the server up. Raises `RedisError`."""
        try:
            async for field, value in self.client.hscan_iter(key, count=count):
                yield field, value
        except (ClientError, OSError, TimeoutError) as error:
            raise RedisAway(f"Redis is away: {type(error).__name__}") from error

    async def identity(self) -> str:
        """What names this life of the server: another one after a restart, a failover or a new replica.

        Raises `RedisError`.
        """
        server, replication = await self.command("INFO", "server"), await self.command("INFO", "replication")
        return f"{server.get('run_id')}:{replication.get('master_replid')}"

    async def listen(self, channel: str, on_subscribed: Callable[[], None]) -> AsyncIterator[bytes]:
        """Messages of a channel until the connection breaks. Raises `RedisAway` then."""
        try:
            async with self.client.pubsub() as subscription:
                await subscription.subscribe(channel)
                async for message in subscription.listen():
                    if message["type"] == "subscribe":
                        on_subscribed()
                    elif message["type"] == "message":
                        yield message["data"]
        except (ClientError, OSError, TimeoutError) as error:
            raise RedisAway(f"the subscription broke: {type(error).__name__}") from error
        raise RedisAway("the subscription ended")

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell every subscriber. Raises `RedisError`."""
        await self.command("PUBLISH", channel, message)

    async def close(self) -> None:
        """Close all connections."""
        self.on_lost = lambda: None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        await self.client.aclose()
