"""One Redis server: a connection for script calls, and the client library for what is rare."""

import asyncio
from collections.abc import AsyncIterator, Callable
from ssl import SSLContext
from typing import Any, Final

import redis.asyncio as redis_client
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, AuthorizationError, InvalidResponse, NoPermissionError
from redis.exceptions import ConnectionError as ClientConnectionError
from redis.exceptions import RedisError as ClientError

from billing.holds.redis.connection import Argument, RedisConnection
from billing.holds.redis_errors import RedisAway, RedisError, RedisStrange
from billing.holds.singleflight import SingleFlight

CLIENT_NAME: Final = "metergate"
LISTEN_PING_S: Final = 5.0
_LIBRARY_FAILURES: Final = (ClientError, OSError, TimeoutError)

Where = dict[str, Any]
"""What a URL says of a server, as the client library parses it. May hold a password: never shown."""

__all__ = ["Server", "Where", "key_slot", "parse_url"]


class Server:
    """Connects when it is used, and again after the connection broke. `on_lost` is told when it breaks."""

    def __init__(self, where: Where, on_lost: Callable[[], None], *, connect_timeout_s: float) -> None:
        self._where = where
        self._connect_timeout_s = connect_timeout_s
        self._on_lost = on_lost
        self._connecting: SingleFlight[RedisConnection] = SingleFlight()
        self._wire: RedisConnection | None = None
        options = {name: value for name, value in where.items() if name != "connection_class"}
        if where.get("connection_class") is SSLConnection:
            options["ssl"] = True
        if "path" in options:
            options["unix_socket_path"] = options.pop("path")
        options["socket_connect_timeout"] = connect_timeout_s
        # With a timeout of its own the library writes under `wait_for`: it swallows cancellations before Python 3.12.
        options["socket_timeout"] = None
        options["client_name"] = CLIENT_NAME
        # At once and once: a connection that broke while it lay idle is found when it is used. Else whoever asks waits.
        options["retry"] = Retry(NoBackoff(), 1, supported_errors=(ClientConnectionError,))
        try:
            self._client = redis_client.Redis(**options)
        except (TypeError, ValueError) as error:
            raise RedisStrange("REDIS_URL has an option that there is not") from error

    def __repr__(self) -> str:
        return f"Server({self.name}, {'up' if self._wire and self._wire.alive else 'down'})"

    @property
    def name(self) -> str:
        """Where it is, without a secret."""
        return str(self._where.get("path") or f"{self.host}:{self._where.get('port', 6379)}")

    @property
    def host(self) -> str:
        return str(self._where.get("host", "localhost"))

    async def connect(self) -> RedisConnection:
        """The connection, opened where it is not; whoever asks meanwhile shares the attempt. Raises `RedisAway`."""
        if self._wire is not None and self._wire.alive:
            return self._wire
        return await self._connecting.run("wire", self._connect)

    async def _connect(self) -> RedisConnection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                self._wire = await self._open()
        except RedisError as error:
            raise RedisAway(f"Redis at {self.name} does not serve us: {error}") from error
        except (OSError, TimeoutError) as error:
            raise RedisAway(f"Redis at {self.name} is away: {type(error).__name__}") from error
        return self._wire

    async def _open(self) -> RedisConnection:
        loop, where = asyncio.get_running_loop(), self._where

        def make() -> RedisConnection:
            return RedisConnection(self._on_lost)

        if "path" in where:
            _, wire = await loop.create_unix_connection(make, where["path"])
        else:
            _, wire = await loop.create_connection(make, self.host, where.get("port", 6379), ssl=_tls(where))
        try:
            if where.get("password"):
                names = [where["username"]] if where.get("username") else []
                await wire.ask(["AUTH", *names, where["password"]])
            if where.get("db"):
                await wire.ask(["SELECT", where["db"]])
            await wire.ask(["CLIENT", "SETNAME", CLIENT_NAME])
        except BaseException:
            wire.close()
            raise
        return wire

    def _failure(self, error: Exception) -> RedisAway:
        """What a failure of the client library means. Its own texts are not shown: they may repeat what was sent."""
        match error:
            case AuthenticationError() | AuthorizationError() | NoPermissionError():
                return RedisStrange(f"Redis at {self.name} does not take this user and password")
            case InvalidResponse():
                return RedisStrange(f"what answers at {self.name} is no Redis")
        return RedisAway(f"Redis at {self.name}: {type(error).__name__}")

    async def command(self, *command: Argument) -> Any:
        """A plain command. Raises `RedisAway`."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except _LIBRARY_FAILURES as error:
            raise self._failure(error) from error

    async def scan_hash(self, key: str, count: int) -> AsyncIterator[tuple[bytes, bytes]]:
        """Every field and value of a hash, without holding the server up. Raises `RedisAway`."""
        cursor = 0
        while True:
            cursor, page = await self.command("HSCAN", key, cursor, "COUNT", count)
            for field, value in page.items():
                yield field, value
            if cursor == 0:
                return

    async def listen(self, channel: str, on_subscribed: Callable[[], None]) -> AsyncIterator[bytes]:
        """Messages of a channel until the connection breaks, or is silent for LISTEN_PING_S after a ping too.

        Raises `RedisAway` then.
        """
        try:
            async with self._client.pubsub() as subscription:
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
        except _LIBRARY_FAILURES as error:
            raise RedisAway(f"the subscription broke: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._wire is not None:
            self._wire.close()
        await self._client.aclose()


def _tls(where: Where) -> SSLContext | None:
    """What the client library makes of the URL's `ssl_…` options; None without TLS."""
    if where.get("connection_class") is not SSLConnection:
        return None
    options = {name: value for name, value in where.items() if name.startswith("ssl_")}
    return SSLConnection(**options).ssl_context.get()
