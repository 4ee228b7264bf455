"""The stores of a command, and what it says to the person at the terminal when they, or a layer above them, fail.

They are found once and passed on as `Stores`. This file owns the order of looking: DATABASE_URL and REDIS_URL, each for
itself; the servers that `metergate up` keeps running on the data folder; else servers started on its data for the
length of the command. `up` itself takes none that run: it starts them, and it alone makes data where there is none.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from billing.cli.output import REFUSED, UNREACHABLE, CommandFailed, Output
from billing.database.connection import Database, DatabaseError, DatabaseHindered, DatabaseUnavailable
from billing.database.migrate import MigrationError, migrate, require_none_pending
from billing.holds.epochs import NotReady
from billing.holds.redis.connection import RedisError, RedisRefused
from gateway.commands.data_folder import explained_misuse
from gateway.config.environment import Environment
from gateway.embedded.folders import AlreadyRunning, EmbeddedServersError, has_data
from gateway.embedded.servers import EmbeddedServers, Endpoints, running

_DOCTOR: Final = "`metergate doctor` says more."


@contextmanager
def explained_failures() -> Iterator[None]:
    """Turn what the layers below raise into `CommandFailed`."""
    try:
        with explained_misuse():
            yield
    except EmbeddedServersError as error:
        raise CommandFailed(str(error), REFUSED) from error
    except MigrationError as error:
        raise CommandFailed(str(error), REFUSED) from error
    except DatabaseHindered as error:
        raise CommandFailed(f"{error}. {_DOCTOR}", REFUSED) from error
    except DatabaseUnavailable as error:
        raise CommandFailed(f"{error}. {_DOCTOR}", UNREACHABLE) from error
    except DatabaseError as error:
        raise CommandFailed(f"Postgres refused: {error}. {_DOCTOR}", REFUSED) from error
    except RedisRefused as error:
        raise CommandFailed(f"Redis refused: {error}. {_DOCTOR}", REFUSED) from error
    except (RedisError, NotReady) as error:
        raise CommandFailed(f"{error}. {_DOCTOR}", UNREACHABLE) from error
    except TimeoutError as error:
        raise CommandFailed(f"A store did not answer in time. {_DOCTOR}", UNREACHABLE) from error


@contextmanager
def named_store(url: str) -> Iterator[None]:
    """Name a store that is away by its address."""
    try:
        yield
    except (DatabaseUnavailable, RedisError) as error:
        if isinstance(error, RedisRefused | DatabaseHindered):
            raise
        message = f"{error} ({shown_url(url)}). Check that it runs there and that this machine may reach it."
        raise CommandFailed(message, UNREACHABLE) from error


def shown_url(url: str) -> str:
    """Return a store's URL without user, password and options; a socket's folder is kept."""
    parts = urlsplit(url)
    host = parts.hostname or ", ".join(parse_qs(parts.query).get("host", ()))
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


@dataclass(frozen=True, slots=True)
class Stores:
    """URLs of both; they may hold passwords. `embedded` says that Redis is a server of the data folder,
    `started_database` that Postgres was started by this command, so that nobody else is using it, `own_folder` that
    this command holds the lock of the data folder."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    embedded: bool
    started_database: bool
    own_folder: bool = False


def given_stores(environment: Environment) -> tuple[str | None, str | None]:
    """Return DATABASE_URL and REDIS_URL, where they are set."""
    database_url, redis_url = environment.database_url, environment.redis_url
    return (
        None if database_url is None else database_url.reveal(),
        None if redis_url is None else redis_url.reveal(),
    )


class NoData(CommandFailed):
    """The data folder has nothing, and no database is named: `metergate up` alone makes one."""

    def __init__(self, data_dir: Path, database_url: str | None) -> None:
        missing = "DATABASE_URL, or METERGATE_API_URL" if database_url is None else "REDIS_URL"
        super().__init__(
            f"There is no data in {data_dir}. `metergate up` makes it; to work elsewhere, go to the folder of that "
            f"gateway, or set METERGATE_DATA_DIR, {missing}.",
            UNREACHABLE,
        )


@asynccontextmanager
async def open_stores(environment: Environment, output: Output, *, redis: bool = True) -> AsyncIterator[Stores]:
    """Give the stores of a command; without `redis`, a command that has DATABASE_URL needs no more.

    Raises `EmbeddedServersError`, `NoData` and `CommandFailed`.
    """
    database_url, redis_url = given_stores(environment)
    if database_url and (redis_url or not redis):
        yield named_stores(database_url, redis_url or "")
        return
    found = await _running(environment)
    if found is not None:
        yield _stores(found, database_url, redis_url, started=False)
        return
    if not has_data(environment.data_dir):
        raise NoData(environment.data_dir, database_url)
    output.note(f"Starting the servers of {environment.data_dir} for this command ...")
    try:
        async with EmbeddedServers(environment.data_dir, report=lambda _: None) as servers:
            yield _stores(servers.endpoints, database_url, redis_url, started=True)
    except AlreadyRunning as error:  # those whose servers did not answer
        raise CommandFailed(f"{error} Its servers don't answer yet; try again in a moment.") from error


@asynccontextmanager
async def own_stores(environment: Environment, output: Output) -> AsyncIterator[Stores]:
    """Give the stores of `up`: those that are named, and servers of its own for the rest, whose start is reported.

    Raises `EmbeddedServersError`.
    """
    database_url, redis_url = given_stores(environment)
    if database_url and redis_url:
        yield named_stores(database_url, redis_url)
        return
    started_s = time.monotonic()
    async with EmbeddedServers(environment.data_dir, report=output.progress) as servers:
        output.progress(f"Postgres and Redis run in {environment.data_dir} ({time.monotonic() - started_s:.1f} s)")
        yield _stores(servers.endpoints, database_url, redis_url, started=True)


def named_stores(database_url: str, redis_url: str) -> Stores:
    """Return stores that others keep."""
    return Stores(database_url, redis_url, embedded=False, started_database=False)


async def ready_schema(stores: Stores) -> None:
    """See to it that the schema is this version's: a database that we have started is migrated, others must be.

    Raises `CommandFailed` and `DatabaseError`.
    """
    if stores.started_database:
        await migrate(stores.database_url)
    else:
        await require_schema(stores.database_url)


async def require_schema(database_url: str) -> None:
    """Refuse a database that lacks migrations. Raises `CommandFailed` for that and for one that is away, and
    `DatabaseError`."""
    database = Database(database_url, size=1)
    try:
        with named_store(database_url):
            await require_none_pending(database)
    except MigrationError as error:
        raise CommandFailed(str(error)) from error
    finally:
        await database.close()


async def _running(environment: Environment) -> Endpoints | None:
    try:
        return await asyncio.to_thread(running, environment.data_dir)
    except PermissionError as error:
        message = f"{environment.data_dir} belongs to another user: run this command as that user."
        raise CommandFailed(message) from error


def _stores(own: Endpoints, database_url: str | None, redis_url: str | None, *, started: bool) -> Stores:
    return Stores(
        database_url or own.database_url,
        redis_url or own.redis_url,
        embedded=redis_url is None,
        started_database=started and database_url is None,
        own_folder=started,
    )
