"""Telling the others that a worker's process has ended: its supervisor has seen it, and nobody needs to wait.

Told by the lease in Postgres. Without it, or where Postgres is away for longer, the lease lapses by itself.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from billing.database.connection import Database, DatabaseError
from billing.ledger.leases import end_lease

TRIED_FOR_S: Final = 5.0
PAUSE_S: Final = 0.1
TIMEOUT_S: Final = 2.0

_log = logging.getLogger(__name__)


@asynccontextmanager
async def ending_leases(database_url: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Gives what ends the lease of a gateway whose process is known to have ended, and tries it for TRIED_FOR_S."""
    database = Database(database_url, size=1, timeout_s=TIMEOUT_S)

    async def end(gateway_id: str) -> None:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + TRIED_FOR_S
        while True:
            try:
                return await end_lease(database, gateway_id)
            except DatabaseError as error:
                if loop.time() >= give_up_s:
                    _log.info("the lease of %s runs out by itself: %s", gateway_id, error)
                    return None
            await asyncio.sleep(PAUSE_S)

    try:
        yield end
    finally:
        await database.close()
