"""Postgres: the one place that imports asyncpg. Pools, transactions, named queries, and what its failures mean.

DatabaseError
+-- DatabaseUnavailable   no connection, a broken one, or a server that is starting, stopping or full: try again
+-- DatabaseRefused       the server refused what was asked of it: a constraint, a type, a bound
    +-- UniqueViolation   a row with this key exists
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

Row = asyncpg.Record
Connection = PoolConnectionProxy

APPLICATION_NAME: Final = "metergate"


class DatabaseError(Exception):
    """Postgres did not do what was asked. The message never holds a secret."""


class DatabaseUnavailable(DatabaseError):
    """Postgres is away or can't be written to: the same again, later, may work."""


class DatabaseRefused(DatabaseError):
    """Postgres refused: the same again will be refused again."""


class UniqueViolation(DatabaseRefused):
    """A row with this key exists."""


_AWAY: Final = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.CannotConnectNowError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalClientError,
)


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turns asyncpg's exceptions into ours."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise UniqueViolation(error.constraint_name or "unique") from error
    except asyncpg.InterfaceError as error:
        if isinstance(error, ValueError):  # an argument that the driver can't encode, which no retry mends
            raise DatabaseRefused(f"{type(error).__name__}: {error}") from error
        raise DatabaseUnavailable(f"Postgres is away: {type(error).__name__}") from error
    except _AWAY as error:
        raise DatabaseUnavailable(f"Postgres is away: {type(error).__name__}") from error
    except asyncpg.PostgresError as error:
        raise DatabaseRefused(f"{type(error).__name__}: {error}") from error


class Database:
    """A pool of at most `size` connections, opened as they are needed; every call is bounded by `timeout_s`."""

    def __init__(self, url: str, *, size: int = 4, timeout_s: float = 10.0) -> None:
        self._url = url
        self._size = size
        self._timeout_s = timeout_s
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Database(size={self._size})"

    def another(self, *, size: int, timeout_s: float) -> "Database":
        """A pool of its own on the same server, for another event loop or other bounds."""
        return Database(self._url, size=size, timeout_s=timeout_s)

    async def _opened(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=self._size,
                    timeout=self._timeout_s,
                    command_timeout=self._timeout_s,
                    init=_init,
                    reset=_keep,
                    server_settings={"application_name": APPLICATION_NAME, "timezone": "UTC"},
                )
        return self._pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection, outside a transaction. Raises `DatabaseError`."""
        async with translated():
            pool = self._pool or await self._opened()
            async with pool.acquire(timeout=self._timeout_s) as connection:
                yield connection

    @asynccontextmanager
    async def listening(self, channel: str, on_message: Callable[[str], None]) -> AsyncIterator[Connection]:
        """One connection that is kept, and calls back with what NOTIFY tells on a channel. Raises `DatabaseError`.

        A pooler between us and Postgres may not pass notifications on: they are hints.
        """

        def heard(_: object, __: int, ___: str, message: object) -> None:
            on_message(str(message))

        async with self.connection() as connection:
            await connection.add_listener(channel, heard)
            try:
                yield connection
            finally:
                if not connection.is_closed():
                    await connection.remove_listener(channel, heard)

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """One transaction; with `snapshot` repeatable read and read only. Raises `DatabaseError`, also on commit."""
        async with self.connection() as connection:
            if snapshot:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    yield connection
            else:
                async with connection.transaction():
                    yield connection

    async def rows(self, query: str, *arguments: object) -> list[Row]:
        """All rows of one query. Raises `DatabaseError`."""
        async with self.connection() as connection:
            return await connection.fetch(query, *arguments)

    async def row(self, query: str, *arguments: object) -> Row | None:
        """The first row, or None. Raises `DatabaseError`."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *arguments)

    async def value(self, query: str, *arguments: object) -> Any:
        """The first column of the first row, or None. Raises `DatabaseError`."""
        async with self.connection() as connection:
            return await connection.fetchval(query, *arguments)

    async def execute(self, query: str, *arguments: object) -> str:
        """The command's tag. Raises `DatabaseError`."""
        async with self.connection() as connection:
            return await connection.execute(query, *arguments)

    async def close(self) -> None:
        """Close every connection, at once where they do not close within the timeout."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await pool.close()
        except (TimeoutError, asyncpg.InterfaceError, OSError):
            pool.terminate()


async def _keep(_: object) -> None:
    """Sessions are given back as they are: nothing here sets what a session keeps, and asking Postgres to forget it all
    would be a round trip after every call."""


async def _init(connection: asyncpg.Connection) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=_encode_json, decoder=msgspec.json.decode, format="text"
        )


def _encode_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def queries(package: str) -> Callable[[str], str]:
    """The named queries of a package's `sql` folder: `queries("billing.ledger")("write_debits")`, read once at import.

    Raises `KeyError` for a name that has no file.
    """
    found = {
        entry.name.removesuffix(".sql"): entry.read_text()
        for entry in files(package).joinpath("sql").iterdir()
        if entry.name.endswith(".sql")
    }
    return found.__getitem__


def affected(tag: str) -> int:
    """Rows that a command changed, from its tag such as `UPDATE 3`."""
    return int(tag.rpartition(" ")[2])


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as dictionaries."""
    return [dict(row) for row in rows]
