"""The journal as gateways read it: each entry stands alone.

An unreadable one stops nothing. A newer release's is left to the gateways of that release for LEFT_TO_OTHERS_MS;
anything else is kept in Postgres, logged as an error, and taken out of the journal.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import msgspec

from billing.errors import NewerLayout, Unreadable
from billing.holds.model import as_counted
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import SETTLED, Entry, entry_at_ms
from billing.ledger.debits import Debit, decode_debit
from billing.ledger.writer import keep_dead_letter

if TYPE_CHECKING:
    from billing.holds.epochs import Partitions
    from billing.holds.partition import Partition
    from billing.holds.redis.state import RedisState

logger = logging.getLogger(__name__)

# How old an entry of a newer release may get before it becomes a dead letter: a rollout takes no longer, or its
# gateways are gone.
LEFT_TO_OTHERS_MS: Final = 3_600_000
# Dead letters of one reading; the next one goes on.
DEAD_LETTERS_A_READING: Final = 100


async def settled_debit(redis: RedisState, account_id: str, request_id: str) -> Debit | None:
    """Return the debit of a request of this account that Redis has settled and Postgres may not have yet, else None.
    Reads one entry. Raises `RedisError`."""
    entry = await redis.entry(account_id, request_id)
    try:
        return counted_debit(entry) if entry is not None and entry.state == SETTLED else None
    except Unreadable:  # what can't be read here is left to whoever reads the whole journal
        return None


class Reading:
    """One reading of a partition's journal: `async for request_id, entry in reading`, then `finish`."""

    def __init__(self, partitions: Partitions, partition: Partition) -> None:
        self._database = partitions.database
        self._redis = partitions.redis
        self._partition = partition
        self._bad: list[tuple[bytes, bytes, Unreadable]] = []
        self._discard = Script("discard")

    async def __aiter__(self) -> AsyncIterator[tuple[str, Entry]]:
        async for found in self._redis.entries(self._partition.number, self._note):
            yield found

    def _note(self, field: bytes, raw: bytes, error: Unreadable) -> None:
        young = abs(self._partition.now_ms() - entry_at_ms(raw)) < LEFT_TO_OTHERS_MS
        if len(self._bad) < DEAD_LETTERS_A_READING and not (isinstance(error, NewerLayout) and young):
            self._bad.append((field, raw, error))

    async def debit(self, request_id: str, entry: Entry) -> Debit | None:
        """Return the debit of a settled entry, with its number in Redis; None for one that can't be read, which
        `finish` keeps as a dead letter."""
        try:
            return counted_debit(entry)
        except Unreadable as error:
            raw = await self._redis.raw_entry(self._partition.number, request_id)
            if raw is not None:
                self._note(request_id.encode(), raw, error)
            return None

    async def finish(self) -> int:
        """Keep what could not be read in Postgres, and take it out of Redis; return how many. Raises `DatabaseError`,
        `RedisError`."""
        bad, self._bad = self._bad, []
        epoch = self._partition.epoch
        for field, raw, error in bad:
            name = field.decode("utf-8", "backslashreplace")
            await keep_dead_letter(self._database, name, "entry", raw, f"it can't be read: {error}")
            if epoch is not None:
                keys = [self._partition.meta, self._partition.journal]
                await self._redis.client.call(self._discard, keys, [epoch, field, raw])
        return len(bad)


def counted_debit(entry: Entry) -> Debit:
    """Return the debit of a settled entry, with its epoch and sequence number in Redis. Raises `Unreadable`."""
    return as_counted(decode_debit(entry.payload), entry.epoch, entry.dseq)


def debit_of_entry(request_id: str, raw: bytes) -> Debit:
    """Return what a dead letter of the journal comes to in the ledger: its debit where it was settled, nothing charged
    where it was a hold. Raises `Unreadable`."""
    entry = Entry.unpack(raw)
    if entry.state == SETTLED:
        return counted_debit(entry)
    debit = expired_debit(request_id, entry)
    if debit is None:
        raise NewerLayout("a newer release's hold")
    return given_back(debit, request_id, entry, "its hold could not be read: given back")


def expired_debit(request_id: str, entry: Entry) -> Debit | None:
    """Return what a hold was to be charged, by its payload; nothing is known of it where that can't be read, and None
    says that it is for a newer release's gateways to read.
    """
    try:
        return decode_debit(entry.payload)
    except NewerLayout:
        return None
    except Unreadable as error:
        logger.error("the debit in hold %s can't be read: %s", request_id, error)
    return Debit(
        request_id=request_id,
        admitted_at_ms=entry.at_ms,
        outcome="expired",
        account_id=entry.account_id,
        key_id=entry.key_id,
        feature="llm",
    )


def given_back(debit: Debit, request_id: str, entry: Entry, note: str) -> Debit:
    """Return the row of a hold that expired and is charged nothing."""
    return msgspec.structs.replace(
        debit,
        request_id=request_id,
        admitted_at_ms=entry.at_ms,
        outcome="expired",
        note=note,
        input_tokens=0,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        counts=None,
        cost_nano=0,
        charged_nano=0,
    )
