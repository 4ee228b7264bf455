"""Leases of gateways in Postgres: renewed, ended, and judged (rule R6 of docs/protocol.md).

A gateway that lives is never taken for dead by the ledger: holds expire in a transaction that locks their gateway's row
and finds its lease at the value at which it was judged. A gateway that resumes after a pause has either renewed its
lease before that transaction, and nothing expires, or learns on renewing that it was judged.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from billing.database.connection import (
    Database,
    DatabaseError,
    DatabaseLocked,
    DatabaseRefused,
    MissingPartition,
    Row,
    queries,
)
from billing.ledger.debits import Debit
from billing.ledger.writer import (
    BRIEFLY,
    STORED_DEBITS,
    WRITE_DEBITS,
    WRITE_FREE_DEBITS,
    Stored,
    Written,
    create_months,
    keep_refused_debit,
    stored_by_id,
)

_sql = queries("billing.ledger")
RENEW: Final = _sql("gateways_renew")
END: Final = _sql("gateways_end")
END_ALL: Final = _sql("gateways_end_all")
STANDING: Final = _sql("gateways_standing")
JUDGE: Final = _sql("gateways_judge")
# The channel on which `gateways_end` notifies which gateway has ended; a listener that misses it reads the leases.
ENDED_CHANNEL: Final = "metergate_gateway_ended"
# `Database.rows`, or `fetch` of a connection.
Fetch = Callable[..., Awaitable[Sequence[Row]]]
TRIED_FOR_S: Final = 5.0
PAUSE_S: Final = 0.1
TIMEOUT_S: Final = 2.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One gateway's lease; `value` changes with each renewal. `judged`, set in the caller's own row alone, is the value
    at which others last ended holds of this gateway."""

    gateway_id: str
    value: datetime
    ended: bool
    judged: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A gateway that is taken for dead, and the value at which its lease stood; None: it had no row."""

    gateway_id: str
    value: datetime | None


async def renew_lease(fetch: Fetch, gateway_id: str, lease_s: float, layout: int) -> list[LeaseRow]:
    """Renew a lease and return all of them, its own first; `layout` is the version in which the gateway keeps state in
    Redis. Raises what `fetch` raises."""
    rows = await fetch(RENEW, gateway_id, lease_s, layout)
    return [LeaseRow(row["id"], row["lease_until"], row["ended"], row["judged"]) for row in rows]


async def end_lease(database: Database, gateway_id: str) -> None:
    """Mark a gateway's process as ended; for the process itself, or its supervisor. Raises `DatabaseError`."""
    await database.execute(END, gateway_id)


@asynccontextmanager
async def ending_leases(database_url: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Return what ends the lease of a gateway whose process is known to have ended, and tries it for TRIED_FOR_S."""
    database = Database(database_url, size=1, timeout_s=TIMEOUT_S)

    async def end(gateway_id: str) -> None:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + TRIED_FOR_S
        while True:
            try:
                return await end_lease(database, gateway_id)
            except DatabaseError as error:
                if loop.time() >= give_up_s:
                    logger.info("the lease of %s runs out by itself: %s", gateway_id, error)
                    return None
            await asyncio.sleep(PAUSE_S)

    try:
        yield end
    finally:
        await database.close()


async def end_all_leases(database: Database) -> None:
    """End every lease; only where no gateway is alive. Raises `DatabaseError`."""
    await database.execute(END_ALL)


async def stored_debits(database: Database, request_ids: Sequence[str]) -> dict[str, Stored]:
    """Return the ledger's decisions about requests; one that it does not know is left out. Raises `DatabaseError`."""
    return stored_by_id(await database.rows(STORED_DEBITS, list(request_ids)), fresh=False)


async def write_expired(database: Database, lost: Lost, debits: Sequence[Debit]) -> Written | None:
    """Expire holds of a gateway, all in one transaction, and return the ledger's decision about each. Those of
    accounts whose rows stay locked are left.

    None, and nothing is written, where the gateway lives after all. A debit that Postgres refuses is kept as a dead
    letter as in `write_debits`, and is missing in the result. Raises `DatabaseUnavailable`: the fate of the batch is
    unknown then; expire it again.
    """
    try:
        try:
            return await _write_expired(database, lost, debits, WRITE_DEBITS)
        except DatabaseLocked:
            return await _write_expired(database, lost, debits, WRITE_FREE_DEBITS)
    except MissingPartition:
        await create_months(database, debits)
        return await _write_expired(database, lost, debits, WRITE_FREE_DEBITS)
    except DatabaseRefused as error:
        if len(debits) == 1:  # in the judged transaction, or not at all
            await keep_refused_debit(database, debits[0], error)
            return Written({})
    merged = Written({})
    for debit in debits:
        one = await write_expired(database, lost, [debit])
        if one is None:
            return None
        merged = merged.beside(one)
    return merged


async def _write_expired(database: Database, lost: Lost, debits: Sequence[Debit], query: str) -> Written | None:
    async with database.transaction() as connection:
        if await connection.fetchrow(JUDGE, lost.gateway_id, lost.value) is None:
            return None
        batch = msgspec.json.encode(debits).decode()
        stored = stored_by_id(await connection.fetch(query, batch, BRIEFLY), fresh=True)
        known = [debit.request_id for debit in debits if debit.request_id not in stored]
        if known:
            stored.update(stored_by_id(await connection.fetch(STORED_DEBITS, known), fresh=False))
        return Written(stored, tuple(debit for debit in debits if debit.request_id not in stored))
