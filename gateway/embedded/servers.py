"""Both servers of a data folder: started, kept running, stopped in order; and found by other processes.

async with EmbeddedServers(Path(".metergate"), report=print) as servers:
    ...  # servers.endpoints.database_url, servers.endpoints.redis_url
"""

import asyncio
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from gateway.embedded import process
from gateway.embedded.account import Account, server_account
from gateway.embedded.folders import Folders, make_folders, make_home, postgres_home
from gateway.embedded.lock import EmbeddedServersError, ServerFailed, held, locked
from gateway.embedded.process import Program, postgres_bin, valkey_server
from gateway.embedded.stores import Postgres, Redis, postgres_answers, redis_answers

_ENDPOINTS_NAME = "endpoints.json"
NO_SPACE: Final = os.strerror(errno.ENOSPC)
FIRST_START_MIB: Final = 80
MIB: Final = 1024 * 1024
RESTART_DELAY_S = 0.1  # before the second restart in a row, doubled for each one more; the first is at once
RESTART_DELAY_LIMIT_S = 5.0
STABLE_AFTER_S = 30.0  # a server that ran as long begins anew with its delays
FIRST_START_ATTEMPTS = 3  # what is left of a Postgres killed together with its supervisor can need a moment to go
FIRST_START_DELAY_S = 0.3

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
        """Return where the servers are. Raises RuntimeError outside the context."""
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


class Server(Protocol):
    """What `Postgres` and `Redis` have in common."""

    @property
    def program(self) -> Program: ...

    async def prepare(self, report: Callable[[str], None]) -> None: ...

    async def clear(self, report: Callable[[str], None]) -> None: ...

    def ready(self, pid: int) -> bool: ...


class Keeper:
    """One server, from `start` to `stop`."""

    def __init__(self, server: Server, report: Callable[[str], None]) -> None:
        self._server, self._report = server, report
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once the server is ready. Raises ServerFailed after FIRST_START_ATTEMPTS; then nothing runs."""
        await self._server.prepare(self._report)
        self._report(f"Starting {self._server.program.name} ...")
        for attempt in range(1, FIRST_START_ATTEMPTS + 1):
            try:
                await self._start_once()
                break
            except ServerFailed:
                if attempt == FIRST_START_ATTEMPTS:
                    raise
                await asyncio.sleep(FIRST_START_DELAY_S)
        self._watch = asyncio.create_task(self._restart_for_ever(), name=f"watch {self._server.program.name}")

    async def stop(self) -> None:
        """Stop the server, if it runs. May be called in any state."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        if self._process is not None:
            await process.stop(self._server.program, self._process)

    async def _start_once(self) -> None:
        await self._server.clear(self._report)
        self._process = await process.start(self._server.program, self._server.ready)

    async def _restart_for_ever(self) -> None:
        name, delay_s = self._server.program.name, 0.0
        while self._process is not None:
            started = time.monotonic()
            code = await self._process.wait()
            if time.monotonic() - started >= STABLE_AFTER_S:
                delay_s = 0.0
            _log.warning("%s ended (code %d); starting it again in %.1f s", name, code, delay_s)
            while True:
                await asyncio.sleep(delay_s)
                delay_s = min(max(delay_s * 2, RESTART_DELAY_S), RESTART_DELAY_LIMIT_S)
                try:
                    await self._start_once()
                except (ServerFailed, OSError) as error:
                    _log.error("%s (next attempt in %.1f s)", error, delay_s)
                else:
                    _log.warning("%s runs again", name)
                    break


def running(data_dir: Path) -> Endpoints | None:
    """Return the endpoints of servers that a live process keeps on this data folder and that accept connections; else
    None.

    Blocks for at most two seconds. Raises PermissionError for a data folder of another user.
    """
    home = data_dir.resolve()
    if not held(home):
        return None
    try:
        published = json.loads((home / _ENDPOINTS_NAME).read_bytes())
    except FileNotFoundError:
        return None
    if not (postgres_answers(Path(published["postgres_socket"])) and redis_answers(Path(published["redis_socket"]))):
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
        if NO_SPACE in str(error):  # the last lines of a server's log
            raise EmbeddedServersError(_no_space(data_dir, error)) from error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EmbeddedServersError(_no_space(data_dir, error)) from error
        raise EmbeddedServersError(f"Cannot use {data_dir} as the data folder: {error}") from error


def _no_space(data_dir: Path, error: Exception) -> str:
    existing = next((each for each in (data_dir, *data_dir.parents) if each.exists()), data_dir)
    free_mib = shutil.disk_usage(existing).free / MIB
    return (
        f"{NO_SPACE}: {data_dir} is on a disk with {free_mib:.1f} MiB free, and the servers' first start takes about "
        f"{FIRST_START_MIB} MiB. Free some, or choose another METERGATE_DATA_DIR.\n{error}"
    )
