"""The stores of a command that works on them itself, and how it marks what it finds there."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from billing.cli.output import USAGE, CommandFailed, Output

if TYPE_CHECKING:
    from billing.database.connection import Database

# The words by which a finding's status is shown.
MARKS: Final = {"ok": "ok", "warn": "WARN", "fail": "FAIL"}


def refuse_api_url(output: Output) -> None:
    """Refuse --api-url, for commands on the stores themselves. Raises `CommandFailed`."""
    if output.common.api_url is not None:
        raise CommandFailed(
            "This command works on the database itself: leave --api-url out, and set DATABASE_URL and REDIS_URL where "
            "the stores are not those of this machine's `metergate up`.",
            USAGE,
        )


@asynccontextmanager
async def open_database(output: Output, timeout_s: float) -> AsyncIterator["Database"]:
    """Open the migrated database of the environment. Raises `CommandFailed`, for every failure within as well."""
    async with open_ledger(output, timeout_s) as (database, _):
        yield database


@asynccontextmanager
async def open_ledger(output: Output, timeout_s: float) -> AsyncIterator[tuple["Database", str | None]]:
    """Open the same, and give the URL of the Redis beside it where one is known."""
    from billing.database.connection import Database
    from gateway.commands.stores import explained_failures, open_stores, ready_schema
    from gateway.config.environment import command_environment

    with explained_failures():
        async with open_stores(command_environment(os.environ), output, redis=False) as stores:
            await ready_schema(stores)
            database = Database(stores.database_url, size=1, timeout_s=timeout_s)
            try:
                yield database, stores.redis_url or None
            finally:
                await database.close()
