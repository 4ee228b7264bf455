"""Expiry: how a hold ends whose gateway is gone, and how a gateway that lives after all takes its holds back.

This file owns the order. Another gateway claims the hold in Redis, so that it can't be settled there any more; the
ledger decides, in a transaction that finds the owner's lease standing as it was judged; Redis is told, and the entry
goes. Where the lease has moved nothing is decided, and the claimed entry is left to its owner. The owner renews its
lease first, so that whoever claimed it can decide nothing any more, then asks the ledger, and then ends what was
decided and takes back what was not. Every step is harmless when done twice or by two gateways.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from billing.database.connection import Database
from billing.holds.corrections import Corrections
from billing.holds.journal import expired_debit, given_back
from billing.holds.partitions import Partition
from billing.holds.redis import RedisClient, Script
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import I8, Entry
from billing.ledger.debits import Debit, Stored
from billing.ledger.leases import Lost, stored_debits, write_expired

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
        link: RedisClient,
        keyspace: Keyspace,
        corrections: Corrections,
        renew: Callable[[], Awaitable[None]],
        expired_hold: ExpiredHold,
    ) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._corrections = corrections
        self._renew = renew
        self._expired_hold = expired_hold
        self._claim, self._drop, self._reclaim = Script("claim"), Script("drop"), Script("reclaim")

    async def expire(self, partition: Partition, lost: Lost, request_ids: Sequence[str]) -> int:
        """End holds of a gateway that is gone; how many. Batches, because one that died with thousands of them must not
        keep their money for minutes."""
        ended = 0
        for start in range(0, len(request_ids), EXPIRED_ROWS):
            ended += await self._expire(partition, lost, request_ids[start : start + EXPIRED_ROWS])
        return ended

    async def _expire(self, partition: Partition, lost: Lost, request_ids: Sequence[str]) -> int:
        epoch = partition.epoch
        if epoch is None:
            return 0
        keys = self._fixed_keys(partition)
        claims = (self._link.call(self._claim, keys, [epoch, request_id]) for request_id in request_ids)
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
        """What the ledger has decided about requests of this gateway's, and will not decide behind its back any more:
        its lease is renewed first."""
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
        calls = (self._link.call(self._reclaim, keys, [epoch, each, not_after_ms]) for each in undecided)
        replies = await asyncio.gather(*calls)
        again = [request_id for request_id, reply in zip(undecided, replies, strict=True) if reply == 0]
        return again, stored

    async def _end(
        self, partition: Partition, epoch: int, claimed: Mapping[str, Entry], stored: Mapping[str, Stored]
    ) -> None:
        """Let claimed entries go whose accounts have been told of what the ledger decided."""
        accounts = sorted({entry.account_id for entry in claimed.values()})
        told = {account_id for account_id in accounts if await self._corrections.sync(partition, account_id)}
        drops = []
        for request_id, entry in claimed.items():
            row = stored.get(request_id)
            if row is not None and entry.account_id in told:
                states = [self._keys.account(entry.account_id), self._keys.key(entry.account_id, entry.key_id)]
                keys = self._fixed_keys(partition) + states
                drops.append(self._link.call(self._drop, keys, [epoch, request_id, I8.pack(row.xseq or 0)]))
        await asyncio.gather(*drops)

    def _fixed_keys(self, partition: Partition) -> list[bytes]:
        return [self._keys.meta(partition.number), self._keys.journal(partition.number)]

    def _expired(self, request_id: str, entry: Entry, epoch: int) -> Debit | None:
        """The row of a hold whose gateway is gone: charged at its input estimate or not at all, and saying so. None
        for one that a newer release wrote, whose gateways end it."""
        debit = expired_debit(request_id, entry)
        if debit is None:
            return None
        if self._expired_hold == "input" and entry.epoch == epoch:
            note = "the gateway was lost: charged at the estimate of the input"
            return msgspec.structs.replace(
                debit, request_id=request_id, admitted_at_ms=entry.at_ms, outcome="expired", note=note
            )
        return given_back(debit, request_id, entry, "the gateway was lost: given back")
