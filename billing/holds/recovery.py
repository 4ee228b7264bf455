"""What other processes left behind, and what a new epoch asks of this one.

This file owns the sweep: a settled entry that nobody acknowledged is written to Postgres, a hold whose gateway is gone
is claimed, decided by Postgres as expired, and dropped. Every step is harmless when done twice or by two gateways.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from billing.holds.batcher import Item
from billing.holds.codec import CLAIMED, I8, SETTLED, Entry
from billing.holds.connection import Link, Script
from billing.holds.hold import Hold, VoidItem
from billing.holds.journal import Reading, expired_debit, given_back
from billing.holds.keyspace import Keyspace
from billing.holds.loader import Loader
from billing.holds.outbox import Outbox
from billing.holds.partitions import Partition
from billing.holds.sync import Corrections
from billing.ledger.debits import Debit, decode_debit, write_debits
from billing.ledger.postgres import Database, queries

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
LIVE_GATEWAYS: Final = _sql("gateways_live")
UNCORRECTED_LOADED: Final = _sql("uncorrected_loaded")
SETTLED_AGE_MS: Final = 3000
"""A settled entry older than this was left behind: its gateway writes and acknowledges in well under a second."""
ORPHAN_AGE_MS: Final = 5000
"""An own hold that this process knows nothing of, and is this old, came from an admission nobody waited for."""
SETTLED_ROWS: Final = 500
"""Debits left behind are written and acknowledged in batches of so many."""
EXPIRED_ROWS: Final = 100
"""Holds of lost gateways are ended in batches of so many."""
REHOLD_ATTEMPTS: Final = 3
PREPARED_ACCOUNTS: Final = 10_000
"""Accounts that are told of corrections at one attempt to join an epoch."""

Tags = tuple[list[int], list[int]]
"""The tags of an account's counters, and of a key's."""
TagsByName = dict[tuple[str, str, str], Tags]
"""By key, model and feature."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    settled: int = 0
    expired: int = 0
    voided: int = 0


class Recovery:
    """`live` are this process's running holds; `submit` sends a void on the hot path."""

    def __init__(
        self,
        database: Database,
        link: Link,
        keyspace: Keyspace,
        loader: Loader,
        outbox: Outbox,
        corrections: Corrections,
        live: Mapping[str, Hold],
        submit: Callable[[Partition, Item], None],
        gateway_id: str,
        *,
        expired_hold: Literal["void", "input"],
        hold_ttl_s: float,
    ) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._loader = loader
        self._outbox = outbox
        self._corrections = corrections
        self._live = live
        self._submit = submit
        self._gateway_id = gateway_id
        self._expired_hold = expired_hold
        self._hold_ttl_ms = int(hold_ttl_s * 1000)
        self._claim, self._drop, self._rehold = Script("claim"), Script("drop"), Script("rehold")

    async def prepare(self, partition: Partition, epoch: int) -> bool:
        """What this gateway owes a new epoch before it may open: older debits written, running requests held again.

        Raises `DatabaseError`, `RedisError`, `LostWrites`.
        """
        if self._outbox.older_than(partition, epoch):
            await self._outbox.flush()
        await self._write_older(partition, epoch)
        known: TagsByName = {}
        for hold in [hold for hold in self._live.values() if hold.place.partition is partition and hold.epoch < epoch]:
            if hold.ending or not await self._hold_again(partition, hold, epoch, known):
                return False
        return await self._sync_loaded(partition, epoch)

    async def _write_older(self, partition: Partition, epoch: int) -> None:
        """Write what a journal that came back has of older epochs. Its gateways may be gone, and admission must not
        open on balances and windows that these debits are still missing from."""
        older: list[Debit] = []
        reading = self._read(partition)
        async for request_id, entry in reading:
            if entry.state == SETTLED and entry.epoch < epoch:
                debit = await reading.debit(request_id, entry)
                if debit is not None:
                    older.append(debit)
            if len(older) >= SETTLED_ROWS:
                await self._write(older)
        await self._write(older)
        await reading.finish()

    async def _sync_loaded(self, partition: Partition, epoch: int) -> bool:
        """Tell accounts that the new epoch has already of debits that were written after they had been loaded: until
        they know, admission would spend the same money and windows again."""
        rows = await self._database.rows(UNCORRECTED_LOADED, epoch, PREPARED_ACCOUNTS)
        for row in rows:
            ours = self._keys.partition_of(row["id"]) == partition.number
            if ours and not await self._corrections.sync(partition, row["id"]):
                return False
        return len(rows) < PREPARED_ACCOUNTS

    async def _hold_again(self, partition: Partition, hold: Hold, epoch: int, known: TagsByName) -> bool:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        hold.reholding = done
        try:
            debit = decode_debit(hold.payload)
            keys = [self._keys.meta(partition.number), self._keys.journal(partition.number)]
            for _ in range(REHOLD_ATTEMPTS):
                entry = hold.entry(epoch, await self._tags(debit, known))
                reply = await self._link.call(
                    self._rehold, [*keys, hold.place.account_key, hold.place.key_key], [epoch, hold.id, entry]
                )
                if reply in (0, 2):
                    hold.epoch = epoch
                    return True
                if reply == 1:
                    return False
                await self._loader.install(partition, debit.account_id, debit.key_id)
                known.clear()
            return False
        finally:
            hold.reholding = None
            done.set_result(None)

    async def _tags(self, debit: Debit, known: TagsByName) -> Tags:
        """The counters that a request counts in by the newest quotas: there may be others than at its admission."""
        name = (debit.key_id, debit.model, debit.feature)
        if name not in known:
            known[name] = await self._loader.tags(debit.account_id, *name)
        return known[name]

    async def sweep(self, partition: Partition, *, others: bool = True) -> Swept:
        """Finish what is left behind in one partition's journal; without `others` no other gateway's hold is touched.

        Raises `DatabaseError`, `RedisError`.
        """
        now_ms = partition.now_ms()
        waiting: list[Debit] = []
        gone: list[str] = []
        held: dict[str, list[str]] = {}
        orphans: dict[str, list[tuple[str, Entry]]] = {}
        settled = voided = 0
        reading = self._read(partition)
        async for request_id, entry in reading:
            age_ms = now_ms - entry.at_ms
            if entry.state == SETTLED:
                debit = await reading.debit(request_id, entry) if age_ms > SETTLED_AGE_MS else None
                if debit is not None:
                    waiting.append(debit)
            elif entry.state == CLAIMED or (others and age_ms > self._hold_ttl_ms):
                gone.append(request_id)
            elif entry.gateway != self._gateway_id:
                held.setdefault(entry.gateway, []).append(request_id)
            elif request_id not in self._live and age_ms > ORPHAN_AGE_MS:
                orphans.setdefault(entry.account_id, []).append((request_id, entry))
            if len(waiting) >= SETTLED_ROWS:
                settled += await self._write(waiting)
        settled += await self._write(waiting)
        await reading.finish()
        for account_id, found in orphans.items():
            voided += await self._void_orphans(partition, account_id, found)
        if others and held:
            # Asked after the holds were seen: a gateway takes its lease before its first one.
            living = {row["id"] for row in await self._database.rows(LIVE_GATEWAYS)}
            gone += [request_id for gateway in held.keys() - living for request_id in held[gateway]]
        for start in range(0, len(gone), EXPIRED_ROWS):
            await self._expire(partition, gone[start : start + EXPIRED_ROWS])
        if settled or gone or voided:
            logger.info("swept: %d settled, %d expired, %d given back", settled, len(gone), voided)
        return Swept(settled, len(gone), voided)

    def _read(self, partition: Partition) -> Reading:
        return Reading(self._database, self._link, self._keys, partition)

    async def _write(self, waiting: list[Debit]) -> int:
        """Write and acknowledge a batch, and empty it. The number of debits."""
        batch = list(waiting)
        waiting.clear()
        if batch:
            await self._outbox.acknowledge(batch, await write_debits(self._database, batch))
        return len(batch)

    async def _void_orphans(self, partition: Partition, account_id: str, orphans: list[tuple[str, Entry]]) -> int:
        """Give back holds of this gateway that no request has any more; how many.

        One of them may have been settled by the ledger's own way, when Redis did not answer, and that correction is
        what ends it. Given back before, it would leave room for another request, and then be counted after all.
        """
        if not await self._corrections.sync(partition, account_id):
            return 0
        account_key = self._keys.account(account_id)
        for request_id, entry in orphans:
            key_key = self._keys.key(account_id, entry.key_id)
            self._submit(partition, VoidItem(request_id.encode(), account_key, key_key))
        return len(orphans)

    async def _expire(self, partition: Partition, request_ids: list[str]) -> None:
        """Claim holds, let Postgres decide about them, and end those whose account has been told. Together: a gateway
        that died with thousands of them must not keep their money for minutes."""
        keys = [self._keys.meta(partition.number), self._keys.journal(partition.number)]
        epoch = partition.epoch
        if epoch is None:
            return
        claims = (self._link.call(self._claim, keys, [epoch, request_id]) for request_id in request_ids)
        replies = zip(request_ids, await asyncio.gather(*claims), strict=True)
        claimed = {request_id: Entry.unpack(reply[1]) for request_id, reply in replies if reply[0] == 0}
        if not claimed:
            return
        debits = [self._expired(request_id, entry, epoch) for request_id, entry in claimed.items()]
        stored = await write_debits(self._database, [debit for debit in debits if debit is not None])
        accounts = sorted({entry.account_id for entry in claimed.values()})
        told = {account_id for account_id in accounts if await self._corrections.sync(partition, account_id)}
        drops = []
        for request_id, entry in claimed.items():
            row = stored.get(request_id)
            if row is not None and entry.account_id in told:
                states = [self._keys.account(entry.account_id), self._keys.key(entry.account_id, entry.key_id)]
                drops.append(self._link.call(self._drop, keys + states, [epoch, request_id, I8.pack(row.xseq or 0)]))
        await asyncio.gather(*drops)

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
