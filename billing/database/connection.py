"""Postgres: the one place that imports asyncpg. Pools, transactions, named queries, and the meaning of its failures.

DatabaseError
+-- DatabaseUnavailable      a retry may succeed: no connection, a broken one, a server that starts or stops
|   +-- DatabaseHindered     the server is there and failed for a reason outside the statement: a lock that was not
|       |                    granted in time, a missing privilege, a statement that it has forgotten, an internal error
|       +-- DatabaseLocked   a lock was not granted in time: another transaction holds it
+-- DatabaseRefused          every retry fails as well: SQLSTATE classes 22 (data) and 23 (integrity), or a value that
    |                        the driver can't encode
    +-- UniqueViolation      a row with this key exists
    +-- MissingPartition     the row falls into a month that has no partition yet

Behind PgBouncer in transaction mode a statement that was prepared on one connection of the server is unknown on the
next one: `?statement_cache_size=0` in the URL has the driver prepare each statement anew.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, TypeVar

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from billing.database.urls import CACHE_SIZE, split_url
from billing.errors import StoreError

Row = asyncpg.Record
Connection = PoolConnectionProxy
T = TypeVar("T")

APPLICATION_NAME: Final = "metergate"
# A statement that waits for a row goes on with what that has become. Where the server, the database or the role has
# another default it would fail instead.
_PIN: Final = "SET default_transaction_isolation = 'read committed'"


class DatabaseError(StoreError):
    """A statement failed. The message never holds a secret."""


class DatabaseUnavailable(DatabaseError):
    """Postgres is away or can't be written to: a retry may succeed."""


class DatabaseHindered(DatabaseUnavailable):
    """Postgres is there and failed, for a reason outside the statement."""


class DatabaseLocked(DatabaseHindered):
    """A lock was not granted in time: another transaction holds it; or somebody has cancelled the statement, which the
    message says then."""


class DatabaseRefused(DatabaseError):
    """Postgres refused the statement: every retry is refused as well."""


class UniqueViolation(DatabaseRefused):
    """A row with this key exists."""


class MissingPartition(DatabaseRefused):
    """No partition of the table takes the row."""


# Of SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html): data exceptions, and violations of
# integrity constraints. They follow from the statement; errors of every other class may pass.
REFUSING_CLASSES: Final = ("22", "23")
DEFAULT_CACHED: Final = 100
DEFAULT_LOCK_WAIT_S: Final = 0.25
_POOLER_HINT: Final = f"; behind PgBouncer in transaction mode, add {CACHE_SIZE}=0 to DATABASE_URL"
_CANCELED: Final = (
    "Postgres has cancelled a statement, for a lock that was not granted in time, a statement_timeout, or an operator"
)
_LOST_STATEMENT: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
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


@contextmanager
def translated() -> Iterator[None]:
    """Convert asyncpg's exceptions to those of this module."""
    try:
        yield
    except asyncpg.InterfaceError as error:
        if isinstance(error, ValueError):  # an argument that the driver can't encode, which no retry mends
            raise DatabaseRefused(f"{type(error).__name__}: {error}") from error
        raise DatabaseUnavailable(f"Postgres is away: {type(error).__name__}") from error
    except asyncpg.QueryCanceledError as error:
        # Postgres forgets that a lock's timeout is why it cancels a statement that has begun to wait for a second lock
        # (ProcSleep, postgres/src/backend/storage/lmgr/proc.c), and says "due to user request".
        raise DatabaseLocked(f"{_CANCELED}: {type(error).__name__}: {error}") from error
    except _AWAY as error:
        raise DatabaseUnavailable(f"Postgres is away: {type(error).__name__}") from error
    except asyncpg.PostgresError as error:
        raise _answered(error) from error


def _answered(error: asyncpg.PostgresError) -> DatabaseError:
    """Return the exception for an error that the server reported."""
    text = f"{type(error).__name__}: {error}"
    if not (error.sqlstate or "").startswith(REFUSING_CLASSES):
        if isinstance(error, asyncpg.LockNotAvailableError):
            return DatabaseLocked(f"Postgres did not do it: {text}")
        hint = _POOLER_HINT if isinstance(error, _LOST_STATEMENT) else ""
        return DatabaseHindered(f"Postgres did not do it: {text}{hint}")
    if isinstance(error, asyncpg.UniqueViolationError):
        return UniqueViolation(error.constraint_name or "unique")
    if isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None:
        return MissingPartition(text)  # a violated check has a name; only a row without a partition has none
    return DatabaseRefused(text)


class Database:
    """A pool of at most `size` connections, opened as they are needed; every call is bounded by `timeout_s`.

    `lock_wait_s` is how long a statement may wait for an account's row that another transaction has locked, where it
    says so."""

    def __init__(
        self, url: str, *, size: int = 4, timeout_s: float = 10.0, lock_wait_s: float = DEFAULT_LOCK_WAIT_S
    ) -> None:
        self.lock_wait_s = lock_wait_s
        self._url, cached = split_url(url)
        self._cached = DEFAULT_CACHED if cached is None else cached
        self._size = size
        self.timeout_s = self._timeout_s = timeout_s
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Database(size={self._size})"

    def another(self, *, size: int, timeout_s: float) -> "Database":
        """Return another pool on the same server, for another event loop or other bounds."""
        return Database(self._url, size=size, timeout_s=timeout_s, lock_wait_s=self.lock_wait_s)

    async def _opened(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=self._size,
                    timeout=self._timeout_s,
                    command_timeout=self._timeout_s,
                    init=_init if self._cached else _init_pooled,
                    reset=_keep,
                    server_settings={"application_name": APPLICATION_NAME, "timezone": "UTC"},
                    statement_cache_size=self._cached,
                )
        return self._pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection, outside a transaction. Raises `DatabaseError`."""
        with translated():
            pool = self._pool or await self._opened()
            # An idle one is there at once: a timeout for that costs as much as half of a small statement.
            connection = await pool.acquire(timeout=None if pool.get_idle_size() else self._timeout_s)
            try:
                yield connection
            except _LOST_STATEMENT:
                connection.terminate()  # its cache holds other statements that the server has forgotten, too
                raise
            finally:
                await pool.release(connection, timeout=self._timeout_s)

    @asynccontextmanager
    async def listening(self, channel: str, on_message: Callable[[str], None]) -> AsyncIterator[Connection]:
        """Yield a connection that calls back with the payload of each NOTIFY on a channel. Raises `DatabaseError`.

        A pooler in between may not pass notifications on: they are hints.
        """

        def notified(_: object, __: int, ___: str, message: object) -> None:
            on_message(str(message))

        async with self.connection() as connection:
            await connection.add_listener(channel, notified)
            try:
                yield connection
            finally:
                if not connection.is_closed():
                    await connection.remove_listener(channel, notified)

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """Yield a connection in a transaction; with `snapshot` repeatable read and read only. Raises `DatabaseError`,
        also on commit."""
        async with self.connection() as connection:
            isolation: Literal["repeatable_read", "read_committed"] = (
                "repeatable_read" if snapshot else "read_committed"
            )
            async with connection.transaction(isolation=isolation, readonly=snapshot):
                yield connection

    async def rows(self, query: str, *arguments: object) -> list[Row]:
        """Return all rows of a query. Raises `DatabaseError`."""
        async with self.connection() as connection:
            return await connection.fetch(query, *arguments)

    async def row(self, query: str, *arguments: object) -> Row | None:
        """Return the first row, or None. Raises `DatabaseError`."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *arguments)

    async def value(self, query: str, *arguments: object) -> Any:
        """Return the first column of the first row, or None. Raises `DatabaseError`."""
        async with self.connection() as connection:
            return await connection.fetchval(query, *arguments)

    async def execute(self, query: str, *arguments: object) -> str:
        """Run a command and return its tag. Raises `DatabaseError`."""
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
    """Reset nothing: no statement here sets session state but `_PIN`, and a reset would cost a round trip after every
    call."""


async def _init(connection: asyncpg.Connection) -> None:
    """Set a new connection up. A parameter of its startup would do as well, but PgBouncer refuses what it does not
    know."""
    await connection.execute(_PIN)
    await _init_pooled(connection)


async def _init_pooled(connection: asyncpg.Connection) -> None:
    """Set a connection up that shares its sessions with others: transactions alone are pinned."""
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=_encode_json, decoder=msgspec.json.decode, format="text"
        )


def _encode_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_NAMED_QUERY: Final = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)


@cache
def queries(package: str) -> Callable[[str], str]:
    """Return the named statements of a package: `queries("billing.ledger")("jobs_take")`, read once at the first
    import. They stand in `queries.sql`, each behind a line `-- name: NAME`; long ones have files of their own in `sql`.

    Raises `KeyError` for a name that is not there.
    """
    folder = files(package)
    found = dict(_NAMED_QUERY.findall(folder.joinpath("queries.sql").read_text("utf-8")))
    if (long := folder.joinpath("sql")).is_dir():
        found |= {entry.name.removesuffix(".sql"): entry.read_text("utf-8") for entry in long.iterdir()}
    return found.__getitem__


def as_lock_timeout(seconds: float) -> str:
    """Return a time in the form of `lock_timeout`; at least a millisecond, for 0 disables the timeout."""
    return f"{max(1, int(seconds * 1000))}ms"


def affected(tag: str) -> int:
    """Return how many rows a command changed, from its tag such as `UPDATE 3`."""
    return int(tag.rpartition(" ")[2])


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows as dictionaries."""
    return [dict(row) for row in rows]


def from_row(kind: type[T], row: Row, **values: object) -> T:
    """Return a dataclass of a row: each field is the column of its name, unless its value is given."""
    columns = {each.name: row[each.name] for each in fields(kind) if each.name not in values}  # type: ignore[arg-type]
    return kind(**columns, **values)
