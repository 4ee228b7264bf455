"""Both servers of a data folder: started, kept running, stopped in order; and found by other processes.

async with EmbeddedServers(Path(".metergate"), report=print) as servers:
    ...  # servers.endpoints.database_url, servers.endpoints.redis_url
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gateway.embedded import postgres, redis
from gateway.embedded.account import Account, server_account
from gateway.embedded.binaries import postgres_bin, valkey_server
from gateway.embedded.errors import EmbeddedServersError, ServerFailed
from gateway.embedded.folders import Folders, make_folders, make_home, postgres_home
from gateway.embedded.keeper import Keeper, Server
from gateway.embedded.lock import held, locked
from gateway.embedded.postgres import Postgres
from gateway.embedded.redis import Redis

_ENDPOINTS_NAME = "endpoints.json"
NO_SPACE: Final = os.strerror(errno.ENOSPC)
FIRST_START_MIB: Final = 80
MIB: Final = 1024 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers are: what DATABASE_URL and REDIS_URL would say. There is no secret in them."""

    database_url: str
    redis_url: str


class EmbeddedServers:
    """Postgres and Redis on one data folder, for as long as the context is open.

    Entering raises AlreadyRunning when a live process has the folder, ServerFailed when a server doesn't start, and
    EmbeddedServersError for a folder or a machine that doesn't serve; nothing is left running then. A server that dies
    meanwhile is started again with its data. `report` gets lines about progress; `postgres_options` are settings.

    To be entered from a thread that lives as long as the context is open (see `launch`).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        report: Callable[[str], None] = _log.info,
        postgres_options: Mapping[str, str] | None = None,
    ) -> None:
        self._data_dir, self._report, self._postgres_options = data_dir, report, dict(postgres_options or {})
        self._stack = AsyncExitStack()
        self._endpoints: Endpoints | None = None

    @property
    def endpoints(self) -> Endpoints:
        """Where the servers are. Raises RuntimeError outside the context."""
        if self._endpoints is None:
            raise RuntimeError("the embedded servers are not running")
        return self._endpoints

    async def __aenter__(self) -> Self:
        with _readable_errors(self._data_dir):
            async with AsyncExitStack() as stack:
                folders, account = self._place(stack)
                database = Postgres(folders, postgres_bin(account), account, self._postgres_options)
                store = Redis(folders, valkey_server())
                servers: tuple[Server, ...] = (database, store)
                for server in servers:  # left in the opposite order: Redis stops first
                    keeper = Keeper(server, self._report)
                    stack.push_async_callback(keeper.stop)
                    await keeper.start()
                self._endpoints = Endpoints(database_url=database.url, redis_url=store.url)
                stack.callback(_publish(folders, self._endpoints))
                self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._endpoints = None
        await self._stack.aclose()

    def _place(self, stack: AsyncExitStack) -> tuple[Folders, Account | None]:
        """Take the locks and make the folders: blocks for some milliseconds."""
        account = server_account(self._report)
        home = make_home(self._data_dir, account)
        stack.enter_context(locked(home))
        data_home = postgres_home(home, account, self._report)
        if data_home != home:  # a copied data folder points to the same one
            stack.enter_context(locked(data_home))
        return make_folders(home, data_home, account), account


def running(data_dir: Path) -> Endpoints | None:
    """The endpoints of servers that a live process keeps on this data folder and that accept connections; else None.

    Blocks for at most two seconds. Raises PermissionError for a data folder of another user.
    """
    home = data_dir.resolve()
    if not held(home):
        return None
    try:
        published = json.loads((home / _ENDPOINTS_NAME).read_bytes())
    except FileNotFoundError:
        return None
    if not (postgres.answers(Path(published["postgres_socket"])) and redis.answers(Path(published["redis_socket"]))):
        return None
    return Endpoints(database_url=published["database_url"], redis_url=published["redis_url"])


def _publish(folders: Folders, endpoints: Endpoints) -> Callable[[], None]:
    """Write where the servers are, for `running`; returns what takes it back."""
    file = folders.home / _ENDPOINTS_NAME
    content = {
        "database_url": endpoints.database_url,
        "redis_url": endpoints.redis_url,
        "postgres_socket": str(folders.postgres_socket),
        "redis_socket": str(folders.redis_socket),
    }
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(content))
    temporary.replace(file)
    return lambda: file.unlink(missing_ok=True)


@contextmanager
def _readable_errors(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except ServerFailed as error:
        if NO_SPACE in str(error):  # what a server last wrote
            raise EmbeddedServersError(_no_space(data_dir, error)) from error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EmbeddedServersError(_no_space(data_dir, error)) from error
        raise EmbeddedServersError(f"Cannot use {data_dir} as the data folder: {error}") from error


def _no_space(data_dir: Path, error: Exception) -> str:
    place = next((each for each in (data_dir, *data_dir.parents) if each.exists()), data_dir)
    free_mib = shutil.disk_usage(place).free / MIB
    return (
        f"{NO_SPACE}: {data_dir} is on a disk with {free_mib:.1f} MiB free, and the servers' first start takes about "
        f"{FIRST_START_MIB} MiB. Free some, or choose another METERGATE_DATA_DIR.\n{error}"
    )
