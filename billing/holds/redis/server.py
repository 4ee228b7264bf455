"""One Redis server: a connection for script calls, another for plain commands, and the client library for TLS, options
of URLs and subscriptions.

Plain commands have a connection of their own, so that no script call waits behind a long reply. The client library is
imported where it is needed: that takes longer than all that a command does on a server at an address without options.
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

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

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from ssl import SSLContext

    from redis.asyncio import Redis

CLIENT_NAME: Final = "metergate"
LISTEN_PING_S: Final = 5.0
SLOTS: Final = 16_384

# The settings in a URL, as the client library reads it. They may contain a password, and are never shown.
Where = dict[str, Any]
# Settings that are always valid; the client library checks all others.
_PLAIN: Final = frozenset({"host", "port", "db", "path", "username", "password"})


def load_library() -> None:
    """Load the client library now, for a process that is going to listen."""
    import redis.asyncio  # noqa: F401


def parse_url(url: str) -> Where:
    """Return the server's settings in a URL, read as the client library reads it. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.query or parts.scheme not in ("redis", "unix"):
        from redis.asyncio import connection

        return dict(connection.parse_url(url))
    found: Where = {}
    if parts.username:
        found["username"] = unquote(parts.username)
    if parts.password:
        found["password"] = unquote(parts.password)
    if parts.scheme == "unix":
        return {**found, "path": unquote(parts.path)} if parts.path else found
    if parts.hostname:
        found["host"] = unquote(parts.hostname)
    if parts.port:
        found["port"] = parts.port
    with suppress(ValueError):  # any other path has no meaning
        found["db"] = int(unquote(parts.path).replace("/", ""))
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
