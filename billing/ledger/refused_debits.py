"""Debits and entries that Postgres can't take: why, and set aside, so that they never block the others.

What becomes of them is an operator's business (`billing.ledger.set_aside`).
"""

import hashlib
import json
import logging
from typing import Final, Literal

import msgspec

from billing.database.connection import Database, DatabaseRefused, queries
from billing.ledger.debits import Debit, encode_debit

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
SET_ASIDE: Final = _sql("set_aside")
SET_ASIDE_OTHER: Final = "SELECT true FROM debits_set_aside WHERE request_id = $1 AND debit <> $2"
REASON_CHARACTERS: Final = 1000
DIGEST_CHARACTERS: Final = 8  # of the SHA-256 that tells two entries under one request id apart


async def set_debit_aside(database: Database, debit: Debit, error: DatabaseRefused) -> None:
    """Keep a debit that Postgres refuses. Doing it twice is harmless. Raises `DatabaseError`."""
    reason = await why_refused(database, debit, error)
    try:
        payload = encode_debit(debit)
    except (ValueError, OverflowError, TypeError):  # kept for people to read
        payload = json.dumps(msgspec.structs.astuple(debit), default=repr).encode()
    await set_aside(database, debit.request_id, "debit", payload, reason)


async def why_refused(database: Database, debit: Debit, error: DatabaseRefused) -> str:
    """Return the reason in words: Postgres names what it could not store, not what is missing. Raises
    `DatabaseError`."""
    if _storable(debit.account_id) == debit.account_id:
        known = await database.value("SELECT EXISTS (SELECT FROM accounts WHERE id = $1)", debit.account_id)
        if not known:
            return "the ledger has no such account"
    return _storable(str(error))[:REASON_CHARACTERS]


async def set_aside(
    database: Database, request_id: str, kind: Literal["debit", "entry"], payload: bytes, reason: str
) -> None:
    """Keep a refused debit, encoded, or an unreadable journal entry for an operator, with an alarm in the log. Doing it
    twice is harmless. Raises `DatabaseError`."""
    shown = _storable(request_id)
    if kind == "entry":
        other = await database.value(SET_ASIDE_OTHER, shown, payload)
        shown = f"{shown}:{hashlib.sha256(payload).hexdigest()[:DIGEST_CHARACTERS]}" if other else shown
    logger.critical("the ledger can't take %s %s; it is set aside: %s", kind, shown, reason)
    await database.execute(SET_ASIDE, shown, kind, payload, _storable(reason)[:REASON_CHARACTERS])


def _storable(text: str) -> str:
    """Return the text with what UTF-8 or Postgres's text type can't hold (surrogates, NUL) escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
