"""Leases of gateways, as Postgres has them: renewed, ended, and judged.

This file owns that a gateway which lives is never taken for dead by the ledger: holds expire in a transaction that
locks their gateway's row and finds its lease at the value at which it was judged. A gateway that wakes has either
renewed before, and nothing expires, or finds on renewing that it was judged.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from billing.database.connection import Database, DatabaseLocked, DatabaseRefused, MissingPartition, Row, queries
from billing.ledger.debits import (
    BRIEFLY,
    WRITE_DEBITS,
    WRITE_FREE_DEBITS,
    Debit,
    Stored,
    Written,
    create_months,
    set_debit_aside,
)

_sql = queries("billing.ledger")
RENEW: Final = _sql("gateways_renew")
END: Final = _sql("gateways_end")
END_ALL: Final = _sql("gateways_end_all")
STANDING: Final = _sql("gateways_standing")
JUDGE: Final = _sql("gateways_judge")
ENDED_CHANNEL: Final = "metergate_gateway_ended"
"""Where `gateways_end.sql` tells, by NOTIFY, which gateway has ended. Who does not hear it reads it with the leases."""
Fetch = Callable[..., Awaitable[Sequence[Row]]]
"""`Database.rows`, or `fetch` of a connection."""
STORED_DEBITS: Final = _sql("stored_debits")


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One gateway's lease: `value` is another one after each renewal. `judged`, of the own row alone, is the value at
    which others last ended holds of this gateway."""

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
    """Renew a lease and answer all of them, its own first; `layout` is the version in which the gateway keeps state in
    Redis. Raises what `fetch` raises."""
    rows = await fetch(RENEW, gateway_id, lease_s, layout)
    return [LeaseRow(row["id"], row["lease_until"], row["ended"], row["judged"]) for row in rows]


async def end_lease(database: Database, gateway_id: str) -> None:
    """Say that a gateway's process has ended: only for itself, or for whoever has seen it end. Raises
    `DatabaseError`."""
    await database.execute(END, gateway_id)


async def end_all_leases(database: Database) -> None:
    """End every lease; only for whoever knows that no gateway is alive. Raises `DatabaseError`."""
    await database.execute(END_ALL)


async def stored_debits(database: Database, request_ids: Sequence[str]) -> dict[str, Stored]:
    """What the ledger has decided about requests; one that it does not know is left out. Raises `DatabaseError`."""
    return _stored(await database.rows(STORED_DEBITS, list(request_ids)), fresh=False)


async def write_expired(database: Database, lost: Lost, debits: Sequence[Debit]) -> Written | None:
    """Expire holds of a gateway, all in one transaction, and answer what the ledger holds of each now. Those of
    accounts whose rows stay locked are left.

    None, and nothing is written, where the gateway lives after all. A debit that Postgres refuses is set aside as in
    `write_debits`, and is missing in the answer. Raises `DatabaseUnavailable`: the fate of the batch is unknown then;
    expire it again.
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
            await set_debit_aside(database, debits[0], error)
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
        stored = _stored(await connection.fetch(query, batch, BRIEFLY), fresh=True)
        known = [debit.request_id for debit in debits if debit.request_id not in stored]
        if known:
            stored.update(_stored(await connection.fetch(STORED_DEBITS, known), fresh=False))
        return Written(stored, tuple(debit for debit in debits if debit.request_id not in stored))


def _stored(rows: Sequence[Row], *, fresh: bool) -> dict[str, Stored]:
    return {row["request_id"]: Stored(row["outcome"], row["xseq"], fresh) for row in rows}
