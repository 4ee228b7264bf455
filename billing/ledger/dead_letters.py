"""Dead letters: debits that Postgres refused, and writing them once the cause is mended.

A debit that Postgres refused, or an entry of the journal that could not be read, is kept in `debits_set_aside`.
Replaying writes it by the batch that writes every debit, where its request id decides: done twice, or by two people, it
is one debit. What the ledger has is taken out; what it still refuses stays, with the new reason.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from billing import audit
from billing.database.connection import Database, DatabaseRefused, Row, queries
from billing.ledger.debits import Debit, Unreadable, decode_debit
from billing.ledger.writer import why_refused, write_or_refuse

_sql = queries("billing.ledger")
PAGE: Final = _sql("set_aside_page")
FORGET: Final = _sql("set_aside_forget")
REASON: Final = _sql("set_aside_reason")
KNOWN: Final = "SELECT EXISTS (SELECT FROM usage_events WHERE request_id = $1)"
ROW: Final = "SELECT request_id, kind, debit, reason FROM debits_set_aside WHERE request_id = $1 FOR UPDATE"
COUNT: Final = "SELECT count(*) FROM debits_set_aside"
PAGE_ROWS: Final = 200

Kind = Literal["debit", "entry"]
Result = Literal["written", "known", "refused", "unreadable"]
# Converts a journal entry of a request id to its debit; raises `Unreadable`.
ReadEntry = Callable[[str, bytes], Debit]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row of `debits_set_aside`. `debit` is None where this release can't read it; `reason` says why it was not
    written."""

    request_id: str
    kind: Kind
    debit: Debit | None
    reason: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Replayed:
    """The outcome of replaying one: `written` now, `known` to the ledger before, or still not written for `reason`."""

    request_id: str
    result: Result
    reason: str = ""

    @property
    def done(self) -> bool:
        """Return whether the ledger has the debit now."""
        return self.result in ("written", "known")


async def list_dead_letters(database: Database, read_entry: ReadEntry, limit: int) -> list[DeadLetter]:
    """Return at most `limit` of them, by request id, which is by age. Raises `DatabaseError`."""
    found = []
    for row in await database.rows(PAGE, "", None, limit):
        try:
            debit = _debit_of(row, read_entry)
        except Unreadable:
            debit = None
        found.append(DeadLetter(row["request_id"], row["kind"], debit, row["reason"], row["created_at"]))
    return found


async def count_dead_letters(database: Database) -> int:
    """Return how many there are. Raises `DatabaseError`."""
    return int(await database.value(COUNT))


async def replay(
    database: Database, read_entry: ReadEntry, request_ids: Sequence[str] | None = None
) -> AsyncIterator[Replayed]:
    """Write all of them, or those named, one by one. Raises `DatabaseUnavailable`: begin again then."""
    after = ""
    while rows := await database.rows(PAGE, after, request_ids, PAGE_ROWS):
        for row in rows:
            yield await _replay(database, read_entry, row)
        after = rows[-1]["request_id"]


async def discard(database: Database, request_id: str) -> bool:
    """Give up one that can never be written; return whether it was there. The audit log keeps its bytes, as
    hexadecimal.

    Raises `DatabaseError`.
    """
    async with database.transaction() as connection:
        row = await connection.fetchrow(ROW, request_id)
        if row is None:
            return False
        kept = {"kind": row["kind"], "debit": row["debit"].hex(), "reason": row["reason"]}
        await audit.record(connection, audit.ADMIN, "debit.discard", request_id, kept, None)
        await connection.execute(FORGET, request_id, row["debit"])
    return True


async def _replay(database: Database, read_entry: ReadEntry, row: Row) -> Replayed:
    request_id = row["request_id"]
    try:
        debit = _debit_of(row, read_entry)
    except Unreadable as error:
        if not await database.value(KNOWN, request_id):
            return Replayed(request_id, "unreadable", str(error))
        await database.execute(FORGET, request_id, row["debit"])  # a release that could read it has written it
        return Replayed(request_id, "known")
    try:
        stored = await write_or_refuse(database, [debit])
    except DatabaseRefused as error:
        reason = await why_refused(database, debit, error)
        await database.execute(REASON, request_id, reason)
        return Replayed(request_id, "refused", reason)
    await database.execute(FORGET, request_id, row["debit"])
    return Replayed(request_id, "written" if stored[debit.request_id].fresh else "known")


def _debit_of(row: Row, read_entry: ReadEntry) -> Debit:
    return decode_debit(row["debit"]) if row["kind"] == "debit" else read_entry(row["request_id"], row["debit"])
