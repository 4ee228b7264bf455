"""The journal as gateways read it: each entry stands alone.

One that can't be read stops nothing. A newer release's is left to the gateways of that release for LEFT_TO_OTHERS_MS;
anything else is kept in Postgres, said loudly, and taken out of the journal.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec

from billing.database.connection import Database
from billing.holds.hold import at_place
from billing.holds.partitions import Partition
from billing.holds.redis import RedisClient, Script
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import SETTLED, Entry, entry_at_ms
from billing.ledger.debits import Debit, NewerLayout, Unreadable, decode_debit, set_aside

logger = logging.getLogger(__name__)

SCAN_COUNT: Final = 500
"""Entries that one command asks for: Redis is held for well under a millisecond."""
LEFT_TO_OTHERS_MS: Final = 3_600_000
"""How old an entry of a newer release may get before it is set aside: a rollout takes no longer, or its gateways are
gone."""
ASIDE_A_READING: Final = 100
"""Entries that one reading sets aside; the next one goes on."""
ID_BYTES: Final = 26
SETTLED_BYTE: Final = bytes((SETTLED,))

OnBad = Callable[[bytes, bytes, Unreadable], None]


async def entries(
    link: RedisClient, keyspace: Keyspace, number: int, on_bad: OnBad | None = None
) -> AsyncIterator[tuple[str, Entry]]:
    """Every entry of a partition that can be read, with its request id; `on_bad` is told of the others, as field and
    value. One may come twice. Raises `RedisAway`."""
    async for field, raw in link.scan_hash(keyspace.journal(number).decode(), SCAN_COUNT):
        try:
            if len(field) != ID_BYTES:
                raise Unreadable(f"an entry under a name of {len(field)} bytes")
            request_id, entry = field.decode("ascii"), Entry.unpack(raw)
        except (Unreadable, UnicodeDecodeError) as error:
            if on_bad is not None:
                on_bad(field, raw, error if isinstance(error, Unreadable) else Unreadable(str(error)))
            continue
        yield request_id, entry


async def open_holds(
    link: RedisClient, keyspace: Keyspace, number: int, account_id: str, key_id: str | None
) -> list[str]:
    """Requests of an account, or of a key of it, whose holds are open, in whatever epoch. Raises `RedisAway`."""
    found: dict[str, None] = {}
    async for field, raw in link.scan_hash(keyspace.journal(number).decode(), SCAN_COUNT):
        if raw[1:2] == SETTLED_BYTE or len(field) != ID_BYTES:  # most of a large journal
            continue
        try:
            entry = Entry.unpack(raw)
            if entry.account_id == account_id and key_id in (None, entry.key_id):
                found[field.decode("ascii")] = None
        except (Unreadable, UnicodeDecodeError):
            continue
    return list(found)


async def still_settled(link: RedisClient, keyspace: Keyspace, number: int, request_ids: Sequence[str]) -> list[str]:
    """Those of them whose entries are settled ones: not yet acknowledged. Raises `RedisAway`."""
    left = []
    for start in range(0, len(request_ids), SCAN_COUNT):
        some = request_ids[start : start + SCAN_COUNT]
        values = await link.command("HMGET", keyspace.journal(number), *some)
        left += [each for each, raw in zip(some, values, strict=True) if raw is not None and raw[1:2] == SETTLED_BYTE]
    return left


async def settled_debit(link: RedisClient, keyspace: Keyspace, account_id: str, request_id: str) -> Debit | None:
    """The debit of a request of this account that Redis has settled, until Postgres has it; None of any other. One look
    at one entry. Raises `RedisError`."""
    if len(request_id) != ID_BYTES or not request_id.isascii():
        return None
    raw = await link.command("HGET", keyspace.journal(keyspace.partition_of(account_id)), request_id)
    try:
        entry = None if raw is None else Entry.unpack(raw)
        ours = entry is not None and (entry.state, entry.account_id) == (SETTLED, account_id)
        return placed_debit(entry) if entry is not None and ours else None
    except Unreadable:  # what can't be read here is left to whoever reads the whole journal
        return None


class Reading:
    """One reading of a partition's journal: `async for request_id, entry in reading`, then `finish`."""

    def __init__(self, database: Database, link: RedisClient, keyspace: Keyspace, partition: Partition) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._partition = partition
        self._bad: list[tuple[bytes, bytes, Unreadable]] = []
        self._discard = Script("discard")

    async def __aiter__(self) -> AsyncIterator[tuple[str, Entry]]:
        async for found in entries(self._link, self._keys, self._partition.number, self._note):
            yield found

    def _note(self, field: bytes, raw: bytes, error: Unreadable) -> None:
        young = abs(self._partition.now_ms() - entry_at_ms(raw)) < LEFT_TO_OTHERS_MS
        if len(self._bad) < ASIDE_A_READING and not (isinstance(error, NewerLayout) and young):
            self._bad.append((field, raw, error))

    async def debit(self, request_id: str, entry: Entry) -> Debit | None:
        """The debit of a settled entry, with its place; None for one that can't be read, which is not stopped at."""
        try:
            return placed_debit(entry)
        except Unreadable as error:
            journal, field = self._keys.journal(self._partition.number), request_id.encode()
            raw = await self._link.command("HGET", journal, field)
            if raw is not None:
                self._note(field, raw, error)
            return None

    async def finish(self) -> int:
        """Keep what could not be read in Postgres, and take it out of Redis; how many. Raises `DatabaseError`,
        `RedisError`."""
        bad, self._bad = self._bad, []
        number, epoch = self._partition.number, self._partition.epoch
        for field, raw, error in bad:
            name = field.decode("utf-8", "backslashreplace")
            await set_aside(self._database, name, "entry", raw, f"it can't be read: {error}")
            if epoch is not None:
                keys = [self._keys.meta(number), self._keys.journal(number)]
                await self._link.call(self._discard, keys, [epoch, field, raw])
        return len(bad)


def placed_debit(entry: Entry) -> Debit:
    """The debit of a settled entry, with the place that Redis gave it. Raises `Unreadable`."""
    return at_place(decode_debit(entry.payload), entry.epoch, entry.dseq)


def debit_of_entry(request_id: str, raw: bytes) -> Debit:
    """What an entry that was set aside comes to in the ledger: its debit where it was settled, nothing charged where it
    was a hold. Raises `Unreadable`."""
    entry = Entry.unpack(raw)
    if entry.state == SETTLED:
        return placed_debit(entry)
    debit = expired_debit(request_id, entry)
    if debit is None:
        raise NewerLayout("a newer release's hold")
    return given_back(debit, request_id, entry, "its hold could not be read: given back")


def expired_debit(request_id: str, entry: Entry) -> Debit | None:
    """What a hold was to be charged, by its payload; nothing is known of it where that can't be read, and None says
    that it is for a newer release's gateways to read.
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
        user_id=None,
        key_id=entry.key_id,
        client_request_id=None,
        upstream_request_id=None,
        endpoint="",
        feature="llm",
        model="",
        provider="",
        provider_model="",
        input_tokens=0,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        counts=None,
        cost_nano=0,
        charged_nano=0,
        price_id="",
        multiplier=None,
        markup_scaled=0,
        estimated=False,
        status=0,
        stream=False,
        latency_ms=None,
        ttft_ms=None,
        tags=None,
        end_user=None,
    )


def given_back(debit: Debit, request_id: str, entry: Entry, note: str) -> Debit:
    """The row of a hold that expired and is charged nothing."""
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
