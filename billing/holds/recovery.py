"""What other processes left behind: the sweep of journals, and how a hold ends whose gateway is gone.

The sweep writes a settled entry that nobody acknowledged to Postgres, and lets a hold expire whose gateway is gone. A
hold of a gateway that lives never expires, however old it is.

This file owns the order of an expiry. Another gateway claims the hold in Redis, so that it can't be settled there any
more; the ledger decides, in a transaction that finds the owner's lease standing as it was judged; Redis is sent the
outcome, and the entry goes. Where the lease has moved nothing is decided, and the claimed entry is left to its owner.
The owner renews its lease first, so that the claimant can decide nothing any more, then asks the ledger, and then ends
what was decided and takes back what was not. Every step is harmless when done twice or by two gateways.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from billing.holds.items import VoidItem
from billing.holds.journal import Reading, expired_debit, given_back, write_settled
from billing.holds.lasting import LASTING
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import CLAIMED, I8, SETTLED, Entry
from billing.ledger.leases import Lost, stored_debits, write_expired
from billing.ledger.writer import Stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from billing.database.connection import Database
    from billing.holds.hold import Hold, RunningHolds
    from billing.holds.lease import Peers
    from billing.holds.outbox import Outbox
    from billing.holds.partition import Partition
    from billing.holds.redis.state import Keyspace, RedisState
    from billing.holds.repairs import Corrections
    from billing.ledger.debits import Debit

ExpiredHold = Literal["void", "input"]
EXPIRED_ROWS: Final = 100
"""Holds of a lost gateway are ended in batches of so many."""
SET_ASIDE: Final = Stored("expired", None, True)
"""Of a hold whose row the ledger refuses, and which is kept beside it: nothing is charged, and the hold ends."""
RECLAIM_WITHIN_MS: Final = 500
"""By Redis's clock: a command that took longer on its way does nothing."""


class Expiry:
    """`renew` renews this gateway's own lease, now. Methods raise `DatabaseError` and `RedisError`."""

    def __init__(
        self,
        database: Database,
        redis: RedisState,
        corrections: Corrections,
        renew: Callable[[], Awaitable[None]],
        expired_hold: ExpiredHold,
    ) -> None:
        self._database = database
        self._redis = redis
        self._client = redis.client
        self._keyspace = redis.keyspace
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
        keys = self._fixed_keys(partition)
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
        aside = [each.request_id for each in debits if each.request_id not in written.stored.keys() | left]
        await self._end(partition, epoch, claimed, {**written.stored, **dict.fromkeys(aside, SET_ASIDE)})
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
        keys, not_after_ms = self._fixed_keys(partition), partition.now_ms() + RECLAIM_WITHIN_MS
        calls = (self._client.call(self._reclaim, keys, [epoch, each, not_after_ms]) for each in undecided)
        replies = await asyncio.gather(*calls)
        again = [request_id for request_id, reply in zip(undecided, replies, strict=True) if reply == 0]
        return again, stored

    async def _end(
        self, partition: Partition, epoch: int, claimed: Mapping[str, Entry], stored: Mapping[str, Stored]
    ) -> None:
        """Drop claimed entries whose accounts have applied the ledger's decision."""
        accounts = sorted({entry.account_id for entry in claimed.values()})
        told = {account_id for account_id in accounts if await self._corrections.sync(partition, account_id)}
        drops = []
        for request_id, entry in claimed.items():
            row = stored.get(request_id)
            if row is not None and entry.account_id in told:
                states = [self._keyspace.account(entry.account_id), self._keyspace.key(entry.account_id, entry.key_id)]
                user_key = _user_key(self._keyspace, request_id, entry)
                keys = self._fixed_keys(partition) + states + ([] if user_key is None else [user_key])
                drops.append(self._client.call(self._drop, keys, [epoch, request_id, I8.pack(row.xseq or 0)]))
        await asyncio.gather(*drops)

    def _fixed_keys(self, partition: Partition) -> list[bytes]:
        return [self._keyspace.meta(partition.number), self._keyspace.journal(partition.number)]

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


def _user_key(keyspace: Keyspace, request_id: str, entry: Entry) -> bytes | None:
    """Return the state of the user that an open hold counts for; None where it counts for none."""
    debit = expired_debit(request_id, entry) if entry.user_tags is not None else None
    return None if debit is None or debit.user_id is None else keyspace.user(entry.account_id, debit.user_id)


logger = logging.getLogger(__name__)

SETTLED_AGE_MS: Final = 3000
"""A settled entry older than this was left behind: its gateway writes and acknowledges in well under a second."""
ORPHAN_AGE_MS: Final = 5000
"""An own hold that this process knows nothing of, and is this old, came from an admission nobody waited for."""
SETTLED_ROWS: Final = 500
"""Debits left behind are written and acknowledged in batches of so many."""
LOOKED_FOR: Final = 500
"""Running requests without an entry that are looked at in one sweep: one that is lost is enough for a new epoch."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    settled: int = 0
    expired: int = 0
    voided: int = 0


class Recovery:
    """`doubt` gets requests that run in this process and have no hold in Redis."""

    def __init__(
        self,
        database: Database,
        redis: RedisState,
        outbox: Outbox,
        corrections: Corrections,
        running: RunningHolds,
        doubt: Callable[[Partition, Sequence[str], int], Awaitable[None]],
        gateway_id: str,
        peers: Peers,
        expiry: Expiry,
    ) -> None:
        self._database = database
        self._redis = redis
        self._keyspace = redis.keyspace
        self._outbox = outbox
        self._corrections = corrections
        self._running = running
        self._doubt = doubt
        self._gateway_id = gateway_id
        self._peers = peers
        self._expiry = expiry

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
        own = self._outbox.request_ids() | self._running.live.keys() if at_once else frozenset()
        reading = self._read(partition)
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
            elif entry.gateway != self._gateway_id:
                held.setdefault(entry.gateway, []).append(request_id)
            elif entry.state == CLAIMED:
                claimed[request_id] = entry
            elif request_id not in self._running.live and age_ms > ORPHAN_AGE_MS:
                orphans.setdefault(entry.account_id, []).append((request_id, entry))
            if len(waiting) >= SETTLED_ROWS:
                settled += await write_settled(self._database, self._outbox, waiting, locked)
        settled += await write_settled(self._database, self._outbox, waiting, locked)
        await reading.finish()
        await self._look_for(partition, epoch, unseen)
        taken_back, closed = await self._expiry.take_back(partition, claimed)
        for request_id in closed.keys() & self._running.live.keys():
            self._running.live[request_id].closed(closed[request_id].outcome)
        for request_id in taken_back:
            if request_id not in self._running.live:
                orphans.setdefault(claimed[request_id].account_id, []).append((request_id, claimed[request_id]))
        for account_id, found in orphans.items():
            voided += await self._void_orphans(partition, account_id, found)
        if others:
            for gateway, lost in self._peers.lost(held).items():
                expired += await self._expiry.expire(partition, lost, held[gateway])
        if settled or expired or voided:
            logger.info("swept: %d settled, %d expired, %d given back", settled, expired, voided)
        return Swept(settled, expired, voided)

    def _held(self, partition: Partition, epoch: int | None) -> dict[str, Hold]:
        """Return requests of this process that Redis holds in this epoch, by id."""
        return {
            hold.id: hold
            for hold in self._running.live.values()
            if hold.epoch == epoch and hold.target.partition is partition and hold.is_open
        }

    async def _look_for(self, partition: Partition, epoch: int | None, unseen: Mapping[str, Hold]) -> None:
        """Look again for running requests whose entries a scan of the whole journal has not shown: those that run
        still, and have no entry now either, were taken from this process or are lost."""
        if epoch is None or not unseen:
            return
        left = list(unseen)[:LOOKED_FOR]
        missing = await self._redis.without_entry(partition.number, left)
        running = self._held(partition, epoch)
        gone = [request_id for request_id in missing if request_id in running]
        if gone and partition.epoch == epoch:
            await self._doubt(partition, gone, epoch)

    def _read(self, partition: Partition) -> Reading:
        return Reading(self._database, self._redis, partition)

    async def _void_orphans(self, partition: Partition, account_id: str, orphans: list[tuple[str, Entry]]) -> int:
        """Give back holds of this gateway that no request has any more; return how many.

        One of them may have been settled by the ledger's own way, when Redis did not answer, and that correction is
        what ends it. Given back before, it would leave room for another request, and then be counted after all.
        """
        if not await self._corrections.sync(partition, account_id):
            return 0
        account_key = self._keyspace.account(account_id)
        for request_id, entry in orphans:
            key_key = self._keyspace.key(account_id, entry.key_id)
            user_key = _user_key(self._keyspace, request_id, entry)
            self._running.submit(partition, VoidItem(request_id.encode(), account_key, key_key, user_key))
        return len(orphans)
