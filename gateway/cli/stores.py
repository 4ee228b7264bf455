"""The database of a command that works on the stores themselves."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from billing.cli import Output
from billing.ledger.postgres import Database
from gateway.places import command_environment, open_stores, ready_schema


@asynccontextmanager
async def open_database(output: Output, timeout_s: float) -> AsyncIterator[Database]:
    """The migrated database of the environment."""
    async with open_stores(command_environment(os.environ), output, redis=False) as stores:
        await ready_schema(stores)
        database = Database(stores.database_url, size=1, timeout_s=timeout_s)
        try:
            yield database
        finally:
            await database.close()
