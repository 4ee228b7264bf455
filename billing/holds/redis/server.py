"""One Redis server: a connection for script calls, another for plain commands, and the client library for URLs, TLS
and subscriptions.

Plain commands have a connection of their own, so that no script call waits behind a long reply.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from ssl import SSLContext
from typing import Any, Final

import redis.asyncio as redis_client
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as ClientConnectionError
from redis.exceptions import RedisError as ClientError

from billing.holds.redis.connection import (
    NO_REDIS,
    Argument,
    RedisAway,
    RedisConnection,
    RedisError,
    RedisRefused,
    RedisStrange,
    RedisTimeout,
    info_fields,
)
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
        self._connection: RedisConnection | None = None
        self._plain: RedisConnection | None = None
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
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._open(on_lost)
        except RedisStrange as error:
            raise self._strange(error) from error
        except RedisError as error:
            raise RedisAway(f"Redis at {self.name} does not serve us: {error}") from error
        except (OSError, TimeoutError) as error:
            raise RedisAway(f"Redis at {self.name} is away: {type(error).__name__}") from error

    async def _open(self, on_lost: Callable[[], None]) -> RedisConnection:
        loop, where = asyncio.get_running_loop(), self._where

        def make() -> RedisConnection:
            return RedisConnection(on_lost)

        if "path" in where:
            _, connection = await loop.create_unix_connection(make, where["path"])
        else:
            _, connection = await loop.create_connection(make, self.host, where.get("port", 6379), ssl=_tls(where))
        try:
            if where.get("password"):
                names = [where["username"]] if where.get("username") else []
                try:
                    await connection.ask(["AUTH", *names, where["password"]])
                except RedisRefused as error:  # a server without a password refuses every one
                    raise RedisStrange(str(error)) from error
            if where.get("db"):
                await connection.ask(["SELECT", where["db"]])
            await connection.ask(["CLIENT", "SETNAME", CLIENT_NAME])
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
        for connection in (self._connection, self._plain):
            if connection is not None:
                connection.close()
        await self._client.aclose()


def _nothing() -> None:
    """Do nothing: a connection for plain commands that is lost is made anew with the next command."""


def _tls(where: Where) -> SSLContext | None:
    """Return what the client library makes of the URL's `ssl_…` options; None without TLS."""
    if where.get("connection_class") is not SSLConnection:
        return None
    options = {name: value for name, value in where.items() if name.startswith("ssl_")}
    return SSLConnection(**options).ssl_context.get()
