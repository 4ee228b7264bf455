"""Both servers of a data folder: started together, watched, restarted, stopped in order; and found by other processes.

    async with EmbeddedServers(Path(".metergate"), report=print) as servers:
        ...  # servers.endpoints.database_url, servers.endpoints.redis_url
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit
import socket

from gateway.embedded import process
from gateway.embedded.account import server_account
from gateway.embedded.binaries import postgres_bin, valkey_server
from gateway.embedded.errors import EmbeddedServersError, ServerFailed
from gateway.embedded.folders import Folders, make_folders, make_home, postgres_home
from gateway.embedded.lock import held, locked
from gateway.embedded.postgres import Postgres
from gateway.embedded.redis import Redis, answers

RESTART_DELAY_S = 0.1  # before the second restart in a row, doubled for each one more; the first is at once
RESTART_DELAY_LIMIT_S = 5.0
STABLE_AFTER_S = 30.0  # a server that ran as long begins anew with its delays
FIRST_START_ATTEMPTS = 3  # what is left of a Postgres killed with its supervisor can need a moment to go
_CONNECT_TIMEOUT_S = 1.0
_ENDPOINTS_NAME = "endpoints.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers are: the values of DATABASE_URL and REDIS_URL. They hold no secret."""

    database_url: str
    redis_url: str


class EmbeddedServers:
    """Postgres and Redis on one data folder, for as long as the context is open.

    Entering raises AlreadyRunning when a live process has the folder, ServerFailed when a server doesn't start, and
    EmbeddedServersError for a folder or a machine that doesn't serve; nothing is left running then. A server that dies
    meanwhile is started again with its data. `report` gets lines about progress; `postgres_options` are settings (`-c`).

    To be entered from a thread that lives as long as the context does (see `launch`).
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
        async with AsyncExitStack() as stack:
            account = server_account()
            home = await asyncio.to_thread(make_home, self._data_dir, account)
            with _as_our_error(home):
                stack.enter_context(locked(home))
                data_home = await asyncio.to_thread(postgres_home, home, account, self._report)
                if data_home != home:  # a copied data folder points to the same one
                    stack.enter_context(locked(data_home))
                folders = await asyncio.to_thread(make_folders, home, data_home, account)
                binaries = await asyncio.to_thread(postgres_bin, account)
            postgres = Postgres(folders, binaries, account, self._postgres_options)
            redis = Redis(folders, valkey_server())
            # Stopped in the opposite order: Redis, then Postgres.
            ...
        return self
