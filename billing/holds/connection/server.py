"""One Redis server: a wire for script calls, and the client library for what is rare."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import redis.asyncio as redis_client
from redis.asyncio.connection import SSLConnection, parse_url
from redis.crc import key_slot
from redis.exceptions import RedisError as ClientError

from billing.holds.connection.errors import RedisAway, RedisError
from billing.holds.connection.wire import Argument, Wire

CLIENT_NAME: Final = "metergate"
_LIBRARY_FAILURES: Final = (ClientError, OSError, TimeoutError)

Where = dict[str, Any]
"""What a URL says of a server, as the client library parses it. May hold a password: never shown."""

__all__ = ["Server", "Where", "key_slot", "parse_url"]


class Server:
    """Connects when it is used, and again after the connection broke. `on_lost` is told when it breaks."""

    def __init__(self, where: Where, on_lost: Callable[["Server"], None], *, connect_timeout_s: float) -> None:
        self._where = where
        self._connect_timeout_s = connect_timeout_s
        self._on_lost = on_lost
        self._connecting = asyncio.Lock()
        self.wire: Wire | None = None
        options = {name: value for name, value in where.items() if name != "connection_class"}
        if where.get("connection_class") is SSLConnection:
            options["ssl"] = True
        if "path" in options:
            options["unix_socket_path"] = options.pop("path")
        self._client = redis_client.Redis(
            **options,
            socket_timeout=connect_timeout_s,
            socket_connect_timeout=connect_timeout_s,
            client_name=CLIENT_NAME,
        )

    def __repr__(self) -> str:
        return f"Server({self.name}, {'up' if self.wire else 'down'})"

    @property
    def name(self) -> str:
        """Where it is, without a secret."""
        return str(self._where.get("path") or f"{self.host}:{self._where.get('port', 6379)}")

    @property
    def host(self) -> str:
        return str(self._where.get("host", "localhost"))

    async def connect(self) -> Wire:
        """The wire, opened where it is not. Raises `RedisAway`."""
        async with self._connecting:
            if self.wire is None:
                try:
                    async with asyncio.timeout(self._connect_timeout_s):
                        self.wire = await self._open()
                except (OSError, TimeoutError, RedisError) as error:
                    raise RedisAway(f"Redis at {self.name} is away: {type(error).__name__}") from error
            return self.wire

    async def _open(self) -> Wire:
        loop, where = asyncio.get_running_loop(), self._where

        def make() -> Wire:
            return Wire(self._lost)

        if "path" in where:
            _, wire = await loop.create_unix_connection(make, where["path"])
        else:
            tls = ssl.create_default_context() if where.get("connection_class") is SSLConnection else None
            _, wire = await loop.create_connection(make, self.host, where.get("port", 6379), ssl=tls)
        if where.get("password"):
            names = [where["username"]] if where.get("username") else []
            await wire.ask(["AUTH", *names, where["password"]])
        if where.get("db"):
            await wire.ask(["SELECT", where["db"]])
        await wire.ask(["CLIENT", "SETNAME", CLIENT_NAME])
        return wire

    def _lost(self) -> None:
        if self.wire is not None:
            self.wire = None
            self._on_lost(self)

    async def command(self, *command: Argument) -> Any:
        """A plain command. Raises `RedisAway`."""
        try:
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except _LIBRARY_FAILURES as error:
            raise RedisAway(f"Redis at {self.name}: {type(error).__name__}") from error

    async def scan_hash(self, key: str, count: int) -> AsyncIterator[tuple[bytes, bytes]]:
        """Every field and value of a hash, without holding the server up. Raises `RedisAway`."""
        try:
            async for field, value in self._client.hscan_iter(key, count=count):
                yield field, value
        except _LIBRARY_FAILURES as error:
            raise RedisAway(f"Redis at {self.name}: {type(error).__name__}") from error

    async def listen(self, channel: str, on_subscribed: Callable[[], None]) -> AsyncIterator[bytes]:
        """Messages of a channel until the connection breaks. Raises `RedisAway` then."""
        try:
            async with self._client.pubsub() as subscription:
                await subscription.subscribe(channel)
                async for message in subscription.listen():
                    if message["type"] == "subscribe":
                        on_subscribed()
                    elif message["type"] == "message":
                        yield message["data"]
        except _LIBRARY_FAILURES as error:
            raise RedisAway(f"the subscription broke: {type(error).__name__}") from error
        raise RedisAway("the subscription ended")

    async def close(self) -> None:
        """Close all connections."""
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close()
        await self._client.aclose()
