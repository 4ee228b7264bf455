"""What other processes left behind: the journal as gateways read it, its sweep, and how a hold ends whose gateway is
gone.

Each entry of the journal stands alone. An unreadable one stops nothing. A newer release's is left to the gateways of
that release for LEFT_TO_OTHERS_MS; anything else is kept in Postgres, logged as an error, and taken out of the journal.

The sweep writes a settled entry that nobody acknowledged to Postgres, and expires a hold whose gateway is gone. A hold
of a gateway that lives never expires, however old it is.

An expiry goes in this order. Another gateway claims the hold in Redis, so that it can't be settled there any more. The
ledger decides, in a transaction that finds the owner's lease as it was judged. Redis gets the outcome, and the entry
goes. If the lease has moved, nothing is decided, and the claimed entry is left to its owner, who renews its lease
first, so that the claimant can decide nothing any more, then asks the ledger, ends what was decided and takes back what
was not. Every step is harmless when done twice or by two gateways.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from billing.errors import NewerLayout, Unreadable
from billing.holds.model import LASTING, StateKeys, VoidItem, as_counted
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import CLAIMED, I8, SETTLED, Entry, entry_at_ms
from billing.ledger.debits import Debit, decode_debit
from billing.ledger.leases import Lost, stored_debits, write_expired
from billing.ledger.writer import Stored, keep_dead_letter

if TYPE_CHECKING:
    from billing.holds.batch import RunningHolds
    from billing.holds.epochs import Partition, Partitions
    from billing.holds.loading import Corrections
    from billing.holds.model import Hold
    from billing.holds.outbox import Outbox
    from billing.holds.redis.layout import Keyspace
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


ExpiredHold = Literal["void", "input"]
# Holds of a lost gateway are ended in batches of so many.
EXPIRED_ROWS: Final = 100
# Of a hold whose row the ledger refuses, and which is kept beside it: nothing is charged, and the hold ends.
DEAD_LETTER: Final = Stored("expired", None, True)
# By Redis's clock: a command that took longer on its way does nothing.
RECLAIM_WITHIN_MS: Final = 500


class Expiry:
    """`renew` renews this gateway's own lease, now. Methods raise `DatabaseError` and `RedisError`."""

    def __init__(
        self, corrections: Corrections, renew: Callable[[], Awaitable[None]], expired_hold: ExpiredHold
    ) -> None:
        partitions = corrections.partitions
        self._database, self._client, self._keyspace = partitions.database, partitions.redis.client, partitions.keyspace
        self._corrections = corrections
        self._renew = renew
        self._expired_hold = expired_hold
        self._claim, self._drop, self._reclaim = Script("claim"), Script("drop"), Script("reclaim")

    async def expire(self, partition: Partition, lost: Lost, request_ids: Sequence[str]) -> int:
        """End holds of a gateway that is gone; return how many. Batches, because one that died with thousands of them
        must not keep their money for minutes."""
        ended = 0
        for start in range(0, len(request_ids), EXPIRED_ROWS):
            ended += await self._expire(partition, lost, request_ids[start : start + EXPIRED_ROWS])
        return ended

    async def _expire(self, partition: Partition, lost: Lost, request_ids: Sequence[str]) -> int:
        epoch = partition.epoch
        if epoch is None:
            return 0
        keys = [partition.meta, partition.journal]
        claims = (self._client.call(self._claim, keys, [epoch, request_id]) for request_id in request_ids)
        replies = zip(request_ids, await asyncio.gather(*claims), strict=True)
        claimed = {request_id: Entry.unpack(reply[1]) for request_id, reply in replies if reply[0] == 0}
        if not claimed:
            return 0
        found = (self._expired(request_id, entry, epoch) for request_id, entry in claimed.items())
        debits = [debit for debit in found if debit is not None]
        written = await write_expired(self._database, lost, debits)
        if written is None:  # it lives: its owner takes the entries back
            return 0
        left = {debit.request_id for debit in written.left}  # they stay claimed, for a later sweep
        dead = [each.request_id for each in debits if each.request_id not in written.stored.keys() | left]
        await self._end(partition, epoch, claimed, {**written.stored, **dict.fromkeys(dead, DEAD_LETTER)})
        return len(claimed) - len(left)

    async def decided(self, request_ids: Sequence[str]) -> dict[str, Stored]:
        """Return what the ledger has decided about requests of this gateway's, and will not decide behind its back any
        more: its lease is renewed first."""
        await self._renew()
        return await stored_debits(self._database, request_ids)

    async def take_back(
        self, partition: Partition, claimed: Mapping[str, Entry]
    ) -> tuple[list[str], dict[str, Stored]]:
        """Resolve entries of this gateway that another one has claimed: those that are held again, and those that the
        ledger has closed."""
        epoch = partition.epoch
        if epoch is None or not claimed:
            return [], {}
        stored = await self.decided(list(claimed))
        decided = {request_id: entry for request_id, entry in claimed.items() if request_id in stored}
        await self._end(partition, epoch, decided, stored)
        undecided = [request_id for request_id in claimed if request_id not in stored]
        keys, not_after_ms = [partition.meta, partition.journal], partition.now_ms() + RECLAIM_WITHIN_MS
        calls = (self._client.call(self._reclaim, keys, [epoch, each, not_after_ms]) for each in undecided)
        replies = await asyncio.gather(*calls)
        again = [request_id for request_id, reply in zip(undecided, replies, strict=True) if reply == 0]
        return again, stored

    async def _end(
        self, partition: Partition, epoch: int, claimed: Mapping[str, Entry], stored: Mapping[str, Stored]
    ) -> None:
        """Drop claimed entries whose accounts have applied the ledger's decision."""
        accounts = sorted({entry.account_id for entry in claimed.values()})
        synced = {account_id for account_id in accounts if await self._corrections.sync(partition, account_id)}
        drops = []
        for request_id, entry in claimed.items():
            row = stored.get(request_id)
            if row is not None and entry.account_id in synced:
                states = [each for each in _state_keys(self._keyspace, request_id, entry) if each is not None]
                keys = [partition.meta, partition.journal, *states]
                drops.append(self._client.call(self._drop, keys, [epoch, request_id, I8.pack(row.xseq or 0)]))
        await asyncio.gather(*drops)

    def _expired(self, request_id: str, entry: Entry, epoch: int) -> Debit | None:
        """Return the row of a hold whose gateway is gone: charged at its input estimate or not at all, and saying so.
        None for one that a newer release wrote, whose gateways end it."""
        debit = expired_debit(request_id, entry)
        if debit is None:
            return None
        if self._expired_hold == "input" and entry.epoch == epoch:
            note = "the gateway was lost: charged at the estimate of the input"
            return msgspec.structs.replace(
                debit, request_id=request_id, admitted_at_ms=entry.at_ms, outcome="expired", note=note
            )
        return given_back(debit, request_id, entry, "the gateway was lost: given back")


def _state_keys(keyspace: Keyspace, request_id: str, entry: Entry) -> StateKeys:
    """Return the names of the states that an open hold counts in."""
    account_id, debit = entry.account_id, expired_debit(request_id, entry) if entry.user_tags is not None else None
    user_key = None if debit is None or debit.user_id is None else keyspace.user(account_id, debit.user_id)
    return StateKeys(keyspace.account(account_id), keyspace.key(account_id, entry.key_id), user_key)


# A settled entry older than this was left behind: its gateway writes and acknowledges in well under a second.
SETTLED_AGE_MS: Final = 3000
# An own hold that this process knows nothing of, and is this old, came from an admission nobody waited for.
ORPHAN_AGE_MS: Final = 5000
# Debits left behind are written and acknowledged in batches of so many.
SETTLED_ROWS: Final = 500
# Running requests without an entry that are examined in one sweep: one that is lost is enough for a new epoch.
UNSEEN_A_SWEEP: Final = 500


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    settled: int = 0
    expired: int = 0
    voided: int = 0


@dataclass(kw_only=True, eq=False)
class Recovery:
    """Sweeps journals. `find_lost` gets requests that run in this process and have no hold in Redis."""

    gateway_id: str
    partitions: Partitions
    corrections: Corrections
    running: RunningHolds
    outbox: Outbox
    expiry: Expiry
    find_lost: Callable[[Partition, Sequence[str], int], Awaitable[None]]

    async def sweep(self, partition: Partition, *, others: bool = True, at_once: bool = False) -> Swept:
        """Finish what is left behind in one partition's journal; without `others` no other gateway's hold is touched.

        `at_once`: a gateway has died or begins, so that debits which are not this process's own are taken for left
        behind whatever their age; one that lives may write the same once more. Raises `StoreError`.
        """
        now_ms, epoch = partition.now_ms(), partition.epoch
        unseen = self._held(partition, epoch)
        waiting: list[Debit] = []
        held: dict[str, list[str]] = {}
        claimed: dict[str, Entry] = {}
        orphans: dict[str, list[tuple[str, Entry]]] = {}
        locked: set[str] = set()
        settled = voided = expired = 0
        own = self.outbox.request_ids() | self.running.live.keys() if at_once else frozenset()
        reading = Reading(self.partitions, partition)
        async for request_id, entry in reading:
            unseen.pop(request_id, None)
            age_ms = now_ms - entry.at_ms
            if entry.state == SETTLED:
                # By a clock that was ahead it was settled in times to come: nobody waits for those.
                left_behind = abs(age_ms) > SETTLED_AGE_MS or (at_once and request_id not in own)
                left_behind = left_behind and entry.account_id not in locked
                debit = await reading.debit(request_id, entry) if left_behind else None
                if debit is not None:
                    waiting.append(debit)
            elif entry.gateway == LASTING:
                continue
            elif entry.gateway != self.gateway_id:
                held.setdefault(entry.gateway, []).append(request_id)
            elif entry.state == CLAIMED:
                claimed[request_id] = entry
            elif request_id not in self.running.live and age_ms > ORPHAN_AGE_MS:
                orphans.setdefault(entry.account_id, []).append((request_id, entry))
            if len(waiting) >= SETTLED_ROWS:
                settled += await self.outbox.write(waiting, locked)
                waiting.clear()
        settled += await self.outbox.write(waiting, locked)
        await reading.finish()
        await self._find_unseen(partition, epoch, unseen)
        taken_back, closed = await self.expiry.take_back(partition, claimed)
        for request_id in closed.keys() & self.running.live.keys():
            self.running.live[request_id].closed(closed[request_id].outcome)
        for request_id in taken_back:
            if request_id not in self.running.live:
                orphans.setdefault(claimed[request_id].account_id, []).append((request_id, claimed[request_id]))
        for account_id, found in orphans.items():
            voided += await self._void_orphans(partition, account_id, found)
        if others:
            for gateway, lost in self.partitions.peers.lost(held).items():
                expired += await self.expiry.expire(partition, lost, held[gateway])
        if settled or expired or voided:
            logger.info("swept: %d settled, %d expired, %d given back", settled, expired, voided)
        return Swept(settled, expired, voided)

    def _held(self, partition: Partition, epoch: int | None) -> dict[str, Hold]:
        """Return requests of this process that Redis holds in this epoch, by id."""
        return {
            hold.id: hold
            for hold in self.running.live.values()
            if hold.epoch == epoch and hold.target.partition is partition and hold.is_open
        }

    async def _find_unseen(self, partition: Partition, epoch: int | None, unseen: Mapping[str, Hold]) -> None:
        """Read the entries of running requests that a scan of the whole journal has not shown: those that run still,
        and have no entry now either, were taken from this process or are lost."""
        if epoch is None or not unseen:
            return
        left = list(unseen)[:UNSEEN_A_SWEEP]
        missing = await self.partitions.redis.without_entry(partition.number, left)
        running = self._held(partition, epoch)
        gone = [request_id for request_id in missing if request_id in running]
        if gone and partition.epoch == epoch:
            await self.find_lost(partition, gone, epoch)

    async def _void_orphans(self, partition: Partition, account_id: str, orphans: list[tuple[str, Entry]]) -> int:
        """Give back holds of this gateway that no request has any more; return how many.

        One of them may have been settled by a direct ledger write, when Redis did not answer, and that correction ends
        it. Given back before, it would leave room for another request, and then be counted after all.
        """
        if not await self.corrections.sync(partition, account_id):
            return 0
        for request_id, entry in orphans:
            keys = _state_keys(self.partitions.keyspace, request_id, entry)
            self.running.submit(partition, VoidItem(request_id.encode(), keys))
        return len(orphans)
