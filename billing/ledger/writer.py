"""The batch that writes debits to Postgres (rule R3 of docs/protocol.md).

A request id is decided once, by whichever insert comes first; a row that Postgres refuses for its content is found by
bisection and kept as a dead letter, so that it never blocks the others. Any other failure is raised as
`DatabaseUnavailable`: the batch stays whole and is written again. A debit that Redis has counted carries its epoch and
dseq; without them it came by a direct ledger write (rule R4) and becomes a correction.

Almost every batch consists of debits that the ledger does not have yet, so it is first written with a plain insert:
that spares Postgres the speculative-insertion marks of ON CONFLICT and this process a reply for every row. A batch with
a known request id fails as a whole, with nothing written, and is written again with ON CONFLICT DO NOTHING.

An account row that another session has locked would delay a whole batch. So a batch waits for it for BRIEF_WAIT_S; then
the other debits are written, the row alone is waited for, up to the database's `lock_wait_s`, and what is not written
then is returned as `left`, for the caller to try again.

A debit that Postgres refused, or an entry of the journal that could not be read, is kept in `debits_set_aside`, a
dead letter. Replaying writes it, once the cause is mended, by the batch that writes every debit, where its request id
decides: done twice, or by two people, it is one debit. What the ledger has is taken out; what it still refuses stays,
with the new reason.
"""

import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Literal, TypeVar

import msgspec

from billing import audit
from billing.database.connection import (
    Connection,
    Database,
    DatabaseHindered,
    DatabaseLocked,
    DatabaseRefused,
    MissingPartition,
    Row,
    UniqueViolation,
    as_lock_timeout,
    queries,
)
from billing.ledger.debits import Debit, Outcome, Unreadable, decode_debit, encode_debit

logger = logging.getLogger(__name__)
_sql = queries("billing.ledger")

KEEP_DEAD_LETTER: Final = _sql("set_aside")
OTHER_DEAD_LETTER: Final = "SELECT true FROM debits_set_aside WHERE request_id = $1 AND debit <> $2"
REASON_CHARACTERS: Final = 1000
DIGEST_CHARACTERS: Final = 8  # of the SHA-256 that tells two entries under one request id apart


async def keep_refused_debit(database: Database, debit: Debit, error: DatabaseRefused) -> None:
    """Keep a debit that Postgres refuses. Doing it twice is harmless. Raises `DatabaseError`."""
    reason = await why_refused(database, debit, error)
    try:
        payload = encode_debit(debit)
    except (ValueError, OverflowError, TypeError):  # kept for people to read
        payload = json.dumps(msgspec.structs.astuple(debit), default=repr).encode()
    await keep_dead_letter(database, debit.request_id, "debit", payload, reason)


async def why_refused(database: Database, debit: Debit, error: DatabaseRefused) -> str:
    """Return the reason in words: Postgres names what it could not store, not what is missing. Raises
    `DatabaseError`."""
    if _storable(debit.account_id) == debit.account_id:
        known = await database.value("SELECT EXISTS (SELECT FROM accounts WHERE id = $1)", debit.account_id)
        if not known:
            return "the ledger has no such account"
    return _storable(str(error))[:REASON_CHARACTERS]


async def keep_dead_letter(
    database: Database, request_id: str, kind: Literal["debit", "entry"], payload: bytes, reason: str
) -> None:
    """Keep a refused debit, encoded, or an unreadable journal entry for an operator, with an alarm in the log. Doing it
    twice is harmless. Raises `DatabaseError`."""
    shown = _storable(request_id)
    if kind == "entry":
        other = await database.value(OTHER_DEAD_LETTER, shown, payload)
        shown = f"{shown}:{hashlib.sha256(payload).hexdigest()[:DIGEST_CHARACTERS]}" if other else shown
    logger.critical("the ledger can't take %s %s; it is set aside: %s", kind, shown, reason)
    await database.execute(KEEP_DEAD_LETTER, shown, kind, payload, _storable(reason)[:REASON_CHARACTERS])


def _storable(text: str) -> str:
    """Return the text with what UTF-8 or Postgres's text type can't hold (surrogates, NUL) escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


Result = TypeVar("Result")

# How long a batch waits for one locked row while it has debits of other accounts: as long as a few commits take.
BRIEF_WAIT_S: Final = 0.025
BRIEFLY: Final = as_lock_timeout(BRIEF_WAIT_S)
LEAST_WAIT_S: Final = 0.002
# A batch goes to Postgres as one JSON text, which costs this process a tenth of what 34 arrays do.
_as_json: Final = msgspec.json.Encoder().encode


WRITE_DEBITS: Final = _sql("write_debits")
WRITE_NEW_DEBITS: Final = _sql("write_new_debits")
WRITE_FREE_DEBITS: Final = _sql("write_unlocked_debits")
WRITE_CLAIMED_DEBITS: Final = _sql("write_claimed_debits")
STORED_DEBITS: Final = _sql("stored_debits")
PLACE_DEBITS: Final = _sql("place_debits")
CREATE_MONTHS: Final = _sql("create_months_of")


@dataclass(frozen=True, slots=True)
class Stored:
    """The ledger's decision about a request id. `xseq` is set when the debit is a correction; `fresh` when this batch
    inserted it."""

    outcome: Outcome
    xseq: int | None
    fresh: bool


# The decision about nearly every debit: one object for all of them.
PLAIN: Final = Stored("settled", None, True)


@dataclass(frozen=True, slots=True)
class Written:
    """The ledger's decisions about a batch, by request id, and the debits that were `left` unwritten because another
    transaction has the rows of their accounts locked."""

    stored: dict[str, Stored]
    left: tuple[Debit, ...] = ()

    @property
    def locked(self) -> frozenset[str]:
        """Return the accounts of the debits that were left."""
        return frozenset(debit.account_id for debit in self.left)

    def beside(self, other: "Written") -> "Written":
        """Return the union of this batch and another one."""
        return Written({**self.stored, **other.stored}, self.left + other.left)


async def write_debits(database: Database, debits: Sequence[Debit]) -> dict[str, Stored]:
    """Write a batch and return the ledger's decision about each request id. Doing it twice is harmless.

    A debit that Postgres refuses for its content is kept as a dead letter with an alarm in the log and is missing in
    the result. Raises `DatabaseUnavailable` for every other failure: the fate of the batch is unknown then; write it
    again.
    """
    written = await write_batch(database, debits, database.timeout_s)
    if written.left:
        raise DatabaseLocked(f"{len(written.left)} debits wait for the rows of {len(written.locked)} locked accounts")
    return written.stored


async def write_batch(database: Database, debits: Sequence[Debit], wait_s: float = BRIEF_WAIT_S) -> Written:
    """Write a batch as `write_debits` does, but leave the debits of accounts whose rows stay locked. The whole batch
    waits for such a row for `wait_s`.

    Raises `DatabaseUnavailable` as `write_debits`.
    """
    try:
        try:
            return Written(await write_or_refuse(database, debits, wait_s))
        except DatabaseLocked:
            written = await _with_months(database, debits, _write_around)
    except DatabaseRefused as error:
        if len(debits) == 1:
            await keep_refused_debit(database, debits[0], error)
            return Written({})
        half = len(debits) // 2
        first = await write_batch(database, debits[:half], wait_s)
        return first.beside(await write_batch(database, debits[half:], wait_s))
    return Written(written.stored).beside(await _write_patiently(database, written.left))


async def _write_patiently(database: Database, debits: Sequence[Debit]) -> Written:
    """Wait for the accounts' rows one after the other, for the database's `lock_wait_s` in all. A transaction that
    waits for one row holds no other: it would lock out accounts that could have been written at once."""
    groups: dict[str, list[Debit]] = {}
    for debit in debits:
        groups.setdefault(debit.account_id, []).append(debit)
    ends_s, written = time.monotonic() + database.lock_wait_s, Written({})
    for done, group in enumerate(groups.values()):
        share_s = (ends_s - time.monotonic()) / (len(groups) - done)
        one = Written({}, tuple(group))
        if share_s >= LEAST_WAIT_S:
            one = await _write_patient_group(database, group, share_s)
        written = written.beside(one)
    return written


async def _write_patient_group(database: Database, debits: Sequence[Debit], wait_s: float) -> Written:
    try:
        return Written(await _with_months(database, debits, partial(_write, wait_s=wait_s)))
    except DatabaseLocked:
        return Written({}, tuple(debits))
    except DatabaseRefused:  # the row is free, and bisection finds which of them can't be written
        return await write_batch(database, debits)


async def write_or_refuse(
    database: Database, debits: Sequence[Debit], wait_s: float | None = None
) -> dict[str, Stored]:
    """Write a batch whole, as `write_debits` does, but keep no dead letter. A month without a partition gets one.
    Locked rows are waited for as long as a statement may take, or for `wait_s`.

    Raises `DatabaseRefused` where one of them can't be written, `DatabaseUnavailable` as `write_debits`.
    """
    return await _with_months(database, debits, partial(_write, wait_s=wait_s or database.timeout_s))


async def _with_months(
    database: Database, debits: Sequence[Debit], write: Callable[[Database, Sequence[Debit]], Awaitable[Result]]
) -> Result:
    try:
        return await write(database, debits)
    except MissingPartition:
        await create_months(database, debits)
        return await write(database, debits)


async def create_months(database: Database, debits: Sequence[Debit]) -> None:
    """Make the partitions of the months that debits fall into. Raises `DatabaseError`."""
    logger.warning("debits fall into months that have no partition yet: creating it")
    await database.execute(CREATE_MONTHS, [debit.admitted_at_ms for debit in debits])


async def _write(database: Database, debits: Sequence[Debit], wait_s: float) -> dict[str, Stored]:
    batch = _encoded(debits)
    try:
        rows = await database.rows(WRITE_NEW_DEBITS, batch, as_lock_timeout(wait_s))
    except UniqueViolation:
        return await _write_unless_known(database, debits, batch, wait_s)
    return dict.fromkeys([debit.request_id for debit in debits], PLAIN) | stored_by_id(rows, fresh=True)


async def write_claimed(
    database: Database, debits: Sequence[Debit], claims: Sequence[Sequence[str | None]], wait_s: float
) -> set[str]:
    """Write debits of services, none of which Redis has counted, with their claims (`write_claimed_debits.sql`); return
    the requests whose claims held: their debits are written, in one transaction with them, and no others.

    Raises `DatabaseRefused` where one can't be written, `DatabaseLocked` where an account's row is for `wait_s`, and
    `DatabaseUnavailable`; nothing was written then, but where the commit's fate is unknown.
    """

    async def write(database: Database, debits: Sequence[Debit]) -> set[str]:
        asked = _as_json(claims).decode()
        rows = await database.rows(WRITE_CLAIMED_DEBITS, _encoded(debits), as_lock_timeout(wait_s), asked)
        return {row["request_id"] for row in rows}

    return await _with_months(database, debits, write)


async def write_within(connection: Connection, debits: Sequence[Debit], wait_s: float) -> None:
    """Write debits that the ledger does not have, and that Redis has not counted, in the caller's transaction. The
    caller makes missing months, and tells Redis of the accounts after the commit. Raises `DatabaseError`."""
    await connection.fetch(WRITE_NEW_DEBITS, _encoded(debits), as_lock_timeout(wait_s))


def _encoded(debits: Sequence[Debit]) -> str:
    try:
        return _as_json(debits).decode()
    except (ValueError, OverflowError, TypeError) as error:
        raise DatabaseRefused(f"it can't be encoded: {error}") from error


async def _write_around(database: Database, debits: Sequence[Debit]) -> Written:
    """Write the debits whose accounts are free; one that is known already needs no account."""
    stored = stored_by_id(await database.rows(WRITE_FREE_DEBITS, _encoded(debits), BRIEFLY), fresh=True)
    missing = [debit for debit in debits if debit.request_id not in stored]
    stored.update(await _stored_before(database, missing))
    return Written(stored, tuple(debit for debit in missing if debit.request_id not in stored))


async def _write_unless_known(
    database: Database, debits: Sequence[Debit], batch: str, wait_s: float
) -> dict[str, Stored]:
    stored = stored_by_id(await database.rows(WRITE_DEBITS, batch, as_lock_timeout(wait_s)), fresh=True)
    known = [debit for debit in debits if debit.request_id not in stored]
    if known:
        stored.update(await _stored_before(database, known))
    lost = [debit.request_id for debit in debits if debit.request_id not in stored]
    if lost:  # no row would confirm that they are written
        raise DatabaseHindered(f"{len(lost)} debits were neither inserted nor known, the first is {lost[0]}")
    return stored


async def _stored_before(database: Database, debits: Sequence[Debit]) -> dict[str, Stored]:
    """Return what the ledger decided about these before, and give those rows their epoch and dseq."""
    stored = stored_by_id(await database.rows(STORED_DEBITS, [debit.request_id for debit in debits]), fresh=False)
    placed = [debit for debit in debits if debit.dseq is not None and debit.request_id in stored]
    if placed:
        ids, epochs, places = zip(*((debit.request_id, debit.epoch, debit.dseq) for debit in placed), strict=True)
        await database.execute(PLACE_DEBITS, ids, epochs, places)
    return stored


def stored_by_id(rows: Sequence[Row], *, fresh: bool) -> dict[str, Stored]:
    """Return rows of `request_id`, `outcome` and `xseq` by request id."""
    return {row["request_id"]: Stored(row["outcome"], row["xseq"], fresh) for row in rows}


PAGE: Final = _sql("set_aside_page")
FORGET: Final = _sql("set_aside_forget")
REASON: Final = _sql("set_aside_reason")
KNOWN: Final = "SELECT EXISTS (SELECT FROM usage_events WHERE request_id = $1)"
ROW: Final = "SELECT request_id, kind, debit, reason FROM debits_set_aside WHERE request_id = $1 FOR UPDATE"
COUNT: Final = "SELECT count(*) FROM debits_set_aside"
PAGE_ROWS: Final = 200

Kind = Literal["debit", "entry"]
ReplayResult = Literal["written", "known", "refused", "unreadable"]
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
    result: ReplayResult
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
