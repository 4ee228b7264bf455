"""Debits: what one metered request becomes in the ledger, and the batch that writes them.

This file owns rule R3 of the protocol: a request id is decided once, by whoever inserts it first; a row that Postgres
refuses for what it says is found by bisection and set aside, so that it never blocks the others. Any other failure is
raised as `DatabaseUnavailable`: the batch stays whole, and is written again. A debit that Redis has counted carries
its epoch and dseq; without them it came by the ledger's own way and becomes a correction.

Gateways of two releases share one journal. Fields of `Debit` are only ever appended: a release ignores those that it
does not know, and gives those that are missing their defaults. Where that would lose something, the newer release
raises LAYOUT, and older ones leave its debits to it.

Almost every batch is of debits that the ledger has not got yet, so it is written as such first: that spares Postgres
the marks by which an insert that may be given up is kept apart, and us an answer for every row. A batch with a request
id that is known fails as a whole then, with nothing written, and is written again by the statement that leaves those
out.

A row that somebody else has locked would keep all accounts of a batch waiting, and whatever waits for the batch. So a
batch waits for BRIEF_WAIT_S; then the others are written around that row, it is waited for alone, for the database's
`lock_wait_s`, and what is not written then is left to the writer, who tries it again.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Final, Literal, TypeVar

import msgspec

from billing.database.connection import (
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
from billing.errors import MetergateError
from billing.usage import COUNT_NAMES, Usage

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
Outcome = Literal["settled", "expired"]
Result = TypeVar("Result")
OWN_COLUMNS: Final = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
OTHER_COUNTS: Final = tuple(name for name in COUNT_NAMES if name not in OWN_COLUMNS and name != "requests")
_other_counts_of: Final = attrgetter(*OTHER_COUNTS)


REASON_CHARACTERS: Final = 1000
BRIEF_WAIT_S: Final = 0.025
"""A batch waits no longer for a row while it has those of other accounts: as long as a few commits take."""
BRIEFLY: Final = as_lock_timeout(BRIEF_WAIT_S)
LEAST_WAIT_S: Final = 0.002
LAYOUT: Final = 1
"""Of a debit in the journal."""


class Unreadable(MetergateError, ValueError):
    """These bytes are not what they should be."""


class NewerLayout(Unreadable):
    """A newer release wrote this: it is for its gateways to read."""


class Debit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One row of usage_events. Amounts in nano-USD, times in milliseconds.

    `counts` and `tags` are JSON objects as text, or None. Encoded as a MessagePack array it is the journal's payload,
    so the order of the fields is stored: append to it, and never move or remove one. `layout` says by which rules.
    """

    request_id: str
    admitted_at_ms: int
    outcome: Outcome
    account_id: str
    user_id: str | None
    key_id: str
    client_request_id: str | None
    upstream_request_id: str | None
    endpoint: str
    feature: str
    model: str
    provider: str
    provider_model: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    counts: str | None
    cost_nano: int
    charged_nano: int
    price_id: str
    multiplier: str | None
    markup_scaled: int
    estimated: bool
    status: int
    stream: bool
    latency_ms: int | None
    ttft_ms: int | None
    tags: str | None
    end_user: str | None
    note: str | None = None
    epoch: int | None = None
    dseq: int | None = None
    layout: int = LAYOUT


_LAYOUT_PLACE: Final = Debit.__struct_fields__.index("layout")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Debit)
encode_debit = _encoder.encode
_as_json: Final = msgspec.json.Encoder().encode
"""A batch goes to Postgres as one JSON text, which costs this process a tenth of what 34 arrays do."""


def decode_debit(payload: bytes) -> Debit:
    """The debit of a journal's payload; one of an older release, which said no layout, has this one's.

    Raises `NewerLayout`, and `Unreadable` for anything else that is no debit.
    """
    try:
        debit = _decoder.decode(payload)
    except (msgspec.DecodeError, ValueError) as error:
        raise (NewerLayout if _layout_of(payload) > LAYOUT else Unreadable)(f"not a debit: {error}") from error
    if debit.layout > LAYOUT:
        raise NewerLayout(f"a debit of layout {debit.layout}")
    return debit


def _layout_of(payload: bytes) -> int:
    """The layout that a payload says, whatever else it says; 0 where it says none."""
    try:
        said = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, ValueError):
        return 0
    layout = said[_LAYOUT_PLACE] if isinstance(said, list) and len(said) > _LAYOUT_PLACE else 0
    return layout if isinstance(layout, int) else 0


_UNLESS_KNOWN: Final = "ON CONFLICT DO NOTHING"


def _by_place(query: str) -> str:
    """A query that names the fields of debits, as Postgres gets it: by their places in `Debit`."""
    return re.sub(r"d->>'(\w+)'", lambda name: f"d->>{Debit.__struct_fields__.index(name[1])}", query)


def _only_new(query: str) -> str:
    """`write_debits.sql` for a batch that is all new: it refuses a known request id, and answers what is not plain."""
    before, mark, after = query.partition(_UNLESS_KNOWN)
    if not mark or _UNLESS_KNOWN in after or not after.rstrip().endswith("FROM inserted"):
        raise ValueError("write_debits.sql is not of the form that is known here")
    return f"{before}{after.rstrip()} WHERE xseq IS NOT NULL OR outcome <> 'settled'"


def _around_locked(query: str) -> str:
    """`write_debits.sql` for what can be written now: it leaves out the debits of accounts whose rows are locked."""
    for said, instead in (
        ("FOR NO KEY UPDATE\n", "FOR NO KEY UPDATE SKIP LOCKED\n"),
        ("FROM given LEFT JOIN locked", "FROM given JOIN locked"),
    ):
        if query.count(said) != 1:
            raise ValueError("write_debits.sql is not of the form that is known here")
        query = query.replace(said, instead)
    return query


WRITE_DEBITS: Final = _by_place(_sql("write_debits"))
WRITE_NEW_DEBITS: Final = _only_new(WRITE_DEBITS)
WRITE_FREE_DEBITS: Final = _around_locked(WRITE_DEBITS)
STORED_DEBITS: Final = _sql("stored_debits")
PLACE_DEBITS: Final = _sql("place_debits")
CREATE_MONTHS: Final = _sql("create_months_of")
SET_ASIDE: Final = _sql("set_aside")
SET_ASIDE_OTHER: Final = "SELECT true FROM debits_set_aside WHERE request_id = $1 AND debit <> $2"
DIGEST_CHARACTERS: Final = 8
"""Of what tells two entries under one name apart."""


def other_counts(usage: Usage) -> str | None:
    """The counts of a usage that have no column of their own, as JSON; None where all are zero."""
    if not any(_other_counts_of(usage)):
        return None
    counts = {name: count for name in OTHER_COUNTS if (count := getattr(usage, name))}
    return msgspec.json.encode(counts).decode()


def usage_of(row: msgspec.Struct | dict[str, object], counts: dict[str, int] | None) -> Usage:
    """The usage that a stored row describes: its own columns and the counts beside them."""
    said = row if isinstance(row, dict) else msgspec.structs.asdict(row)
    own = {name: said[name] for name in OWN_COLUMNS}
    return Usage(**own, **(counts or {}))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Stored:
    """What the ledger holds of a request id. `xseq` is set when the debit is a correction; `fresh` when this batch
    inserted it."""

    outcome: Outcome
    xseq: int | None
    fresh: bool


PLAIN: Final = Stored("settled", None, True)
"""Of nearly every debit: one for all of them."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the ledger holds of the request ids of a batch now, and the debits that were `left`: another transaction has
    the rows of their accounts locked, and nothing was done about them."""

    stored: dict[str, Stored]
    left: tuple[Debit, ...] = ()

    @property
    def locked(self) -> frozenset[str]:
        """The accounts of what was left."""
        return frozenset(debit.account_id for debit in self.left)

    def beside(self, other: "Written") -> "Written":
        """This batch and another one together."""
        return Written({**self.stored, **other.stored}, self.left + other.left)


async def write_debits(database: Database, debits: Sequence[Debit]) -> dict[str, Stored]:
    """Write a batch and answer what the ledger holds of each request id now. Doing it twice is harmless.

    A debit that Postgres refuses for what it says is set aside with an alarm in the log and is missing in the answer.
    Raises `DatabaseUnavailable` for every other failure: the fate of the batch is unknown then; write it again.
    """
    written = await write_free(database, debits, database.timeout_s)
    if written.left:
        raise DatabaseLocked(f"{len(written.left)} debits wait for the rows of {len(written.locked)} locked accounts")
    return written.stored


async def write_free(database: Database, debits: Sequence[Debit], wait_s: float = BRIEF_WAIT_S) -> Written:
    """Write a batch as `write_debits` does, but for the debits of accounts whose rows stay locked: these are left. The
    whole batch waits for such a row for `wait_s`.

    Raises `DatabaseUnavailable` as `write_debits`.
    """
    try:
        try:
            return Written(await write_or_refuse(database, debits, wait_s))
        except DatabaseLocked:
            written = await _with_months(database, debits, _write_around)
    except DatabaseRefused as error:
        if len(debits) == 1:
            await set_debit_aside(database, debits[0], error)
            return Written({})
        half = len(debits) // 2
        first = await write_free(database, debits[:half], wait_s)
        return first.beside(await write_free(database, debits[half:], wait_s))
    return Written(written.stored).beside(await _write_patiently(database, written.left))


async def _write_patiently(database: Database, debits: Sequence[Debit]) -> Written:
    """Wait for the accounts' rows one after the other, for the database's `lock_wait_s` in all. Whoever waits for one
    has no other: it would lock those out that it could have written at once."""
    groups: dict[str, list[Debit]] = {}
    for debit in debits:
        groups.setdefault(debit.account_id, []).append(debit)
    ends_s, written = time.monotonic() + database.lock_wait_s, Written({})
    for place, group in enumerate(groups.values()):
        share_s = (ends_s - time.monotonic()) / (len(groups) - place)
        if share_s >= LEAST_WAIT_S:
            one = await _write_patient_group(database, group, share_s)
        else:
            one = Written({}, tuple(group))
        written = written.beside(one)
    return written


async def _write_patient_group(database: Database, debits: Sequence[Debit], wait_s: float) -> Written:
    try:
        return Written(await _with_months(database, debits, partial(_write, wait_s=wait_s)))
    except DatabaseLocked:
        return Written({}, tuple(debits))
    except DatabaseRefused:  # its row is free: by itself it is found which of them can't be written
        return await write_free(database, debits)


async def write_or_refuse(
    database: Database, debits: Sequence[Debit], wait_s: float | None = None
) -> dict[str, Stored]:
    """Write a batch whole, as `write_debits` does, but set nothing aside. A month that has no partition yet gets one.
    Rows that are locked are waited for as long as a statement may take, or for `wait_s`.

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
    stored = dict.fromkeys([debit.request_id for debit in debits], PLAIN)
    stored.update(_stored(rows, fresh=True))
    return stored


def _encoded(debits: Sequence[Debit]) -> str:
    try:
        return _as_json(debits).decode()
    except (ValueError, OverflowError, TypeError) as error:
        raise DatabaseRefused(f"it can't be encoded: {error}") from error


async def _write_around(database: Database, debits: Sequence[Debit]) -> Written:
    """Write those whose accounts are free; what is known already needs no account."""
    rows = await database.rows(WRITE_FREE_DEBITS, _encoded(debits), BRIEFLY)
    stored = _stored(rows, fresh=True)
    missing = [debit for debit in debits if debit.request_id not in stored]
    stored.update(await _stored_before(database, missing))
    return Written(stored, tuple(debit for debit in missing if debit.request_id not in stored))


async def _write_unless_known(
    database: Database, debits: Sequence[Debit], batch: str, wait_s: float
) -> dict[str, Stored]:
    stored = _stored(await database.rows(WRITE_DEBITS, batch, as_lock_timeout(wait_s)), fresh=True)
    known = [debit for debit in debits if debit.request_id not in stored]
    if known:
        stored.update(await _reconcile_known(database, known))
    return stored


async def _reconcile_known(database: Database, debits: Sequence[Debit]) -> dict[str, Stored]:
    stored = await _stored_before(database, debits)
    lost = [debit.request_id for debit in debits if debit.request_id not in stored]
    if lost:  # no answer would say that they are written
        raise DatabaseHindered(f"{len(lost)} debits were neither inserted nor known, the first is {lost[0]}")
    return stored


async def _stored_before(database: Database, debits: Sequence[Debit]) -> dict[str, Stored]:
    """What the ledger has decided about these before; they learn their places in Redis's sequence."""
    stored = _stored(await database.rows(STORED_DEBITS, [debit.request_id for debit in debits]), fresh=False)
    placed = [debit for debit in debits if debit.dseq is not None and debit.request_id in stored]
    if placed:
        ids, epochs, places = zip(*((debit.request_id, debit.epoch, debit.dseq) for debit in placed), strict=True)
        await database.execute(PLACE_DEBITS, ids, epochs, places)
    return stored


def _stored(rows: Sequence[Row], *, fresh: bool) -> dict[str, Stored]:
    return {row["request_id"]: Stored(row["outcome"], row["xseq"], fresh) for row in rows}


async def set_debit_aside(database: Database, debit: Debit, error: DatabaseRefused) -> None:
    """Keep a debit that Postgres refuses. Doing it twice is harmless. Raises `DatabaseError`."""
    reason = await why_refused(database, debit, error)
    try:
        payload = encode_debit(debit)
    except (ValueError, OverflowError, TypeError):  # kept for people to read
        payload = json.dumps(msgspec.structs.astuple(debit), default=repr).encode()
    await set_aside(database, debit.request_id, "debit", payload, reason)


async def why_refused(database: Database, debit: Debit, error: DatabaseRefused) -> str:
    """The reason in words: Postgres names what it could not store, not what is missing. Raises `DatabaseError`."""
    if _storable(debit.account_id) == debit.account_id:
        known = await database.value("SELECT EXISTS (SELECT FROM accounts WHERE id = $1)", debit.account_id)
        if not known:
            return "the ledger has no such account"
    return _storable(str(error))[:REASON_CHARACTERS]


async def set_aside(
    database: Database, request_id: str, kind: Literal["debit", "entry"], payload: bytes, reason: str
) -> None:
    """Keep what the ledger can't take, or what can't be read, for an operator, and say so loudly. `payload` is a debit,
    encoded, or a whole entry of the journal. Doing it twice is harmless. Raises `DatabaseError`.
    """
    shown = _storable(request_id)
    if kind == "entry":
        other = await database.value(SET_ASIDE_OTHER, shown, payload)
        shown = f"{shown}:{hashlib.sha256(payload).hexdigest()[:DIGEST_CHARACTERS]}" if other else shown
    logger.critical("the ledger can't take %s %s; it is set aside: %s", kind, shown, reason)
    await database.execute(SET_ASIDE, shown, kind, payload, _storable(reason)[:REASON_CHARACTERS])


def _storable(text: str) -> str:
    """The text as Postgres can store it: without what UTF-8 or a text there can't hold."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
