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
from billing.holds.hold import Hold, VoidItem, at_place
from billing.holds.keyspace import Keyspace
from billing.holds.loader import Loader
from billing.holds.outbox import Outbox
from billing.holds.partitions import Partition
from billing.holds.sync import Corrections
from billing.ledger.debits import Debit, decode_debit, write_debits
from billing.ledger.postgres import Database, queries

logger = logging.getLogger(__name__)

LIVE_GATEWAYS: Final = queries("billing.ledger")("gateways_live")
SETTLED_AGE_MS: Final = 3000
"""A settled entry older than this was left behind: its gateway writes and acknowledges in well under a second."""
ORPHAN_AGE_MS: Final = 5000
"""An own hold that this process knows nothing of, and is this old, came from an admission nobody waited for."""
SCAN_COUNT: Final = 500
REHOLD_ATTEMPTS: Final = 3


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
        for hold in [hold for hold in self._live.values() if hold.partition is partition and hold.epoch < epoch]:
            if hold.ending or not await self._hold_again(partition, hold, epoch):
                return False
        return True

    async def _hold_again(self, partition: Partition, hold: Hold, epoch: int) -> bool:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        hold.reholding = done
        try:
            debit = decode_debit(hold.payload)
            keys = [self._keys.meta(partition.number), self._keys.journal(partition.number)]
            for _ in range(REHOLD_ATTEMPTS):
                reply = await self._link.call(
                    self._rehold, [*keys, hold.account_key, hold.key_key], [epoch, hold.id, hold.entry(epoch)]
                )
                if reply in (0, 2):
                    hold.epoch = epoch
                    return True
                if reply == 1:
                    return False
                await self._loader.install(partition, debit.account_id, debit.key_id)
            return False
        finally:
            hold.reholding = None
            done.set_result(None)

    async def sweep(self, partition: Partition, *, others: bool = True) -> Swept:
        """Finish what is left behind in one partition's journal; without `others` no other gateway's hold is touched.

        Raises `DatabaseError`, `RedisError`.
        """
        living = {row["id"] for row in await self._database.rows(LIVE_GATEWAYS)}
        now_ms = partition.now_ms()
        settled: list[Debit] = []
        gone: list[str] = []
        voided = 0
        async for field, raw in self._link.scan_hash(self._keys.journal(partition.number).decode(), SCAN_COUNT):
            entry, request_id = Entry.unpack(raw), field.decode()
            age_ms = now_ms - entry.at_ms
            if entry.state == SETTLED:
                if age_ms > SETTLED_AGE_MS:
                    settled.append(at_place(decode_debit(entry.payload), entry.epoch, entry.dseq))
            elif entry.state == CLAIMED or (others and self._is_gone(entry, age_ms, living)):
                gone.append(request_id)
            elif entry.gateway == self._gateway_id and request_id not in self._live and age_ms > ORPHAN_AGE_MS:
                self._void_orphan(partition, request_id, entry)
                voided += 1
        if settled:
            await self._outbox.acknowledge(settled, await write_debits(self._database, settled))
        for request_id in gone:
            await self._expire(partition, request_id)
        if settled or gone or voided:
            logger.info("swept: %d settled, %d expired, %d given back", len(settled), len(gone), voided)
        return Swept(len(settled), len(gone), voided)

    def _is_gone(self, entry: Entry, age_ms: int, living: set[str]) -> bool:
        return entry.gateway not in living or age_ms > self._hold_ttl_ms

    def _void_orphan(self, partition: Partition, request_id: str, entry: Entry) -> None:
        account_key = self._keys.account(entry.account_id)
        key_key = self._keys.key(entry.account_id, entry.key_id)
        self._submit(partition, VoidItem(request_id.encode(), account_key, key_key))

    async def _expire(self, partition: Partition, request_id: str) -> None:
        keys = [self._keys.meta(partition.number), self._keys.journal(partition.number)]
        epoch = partition.epoch
        if epoch is None:
            return
        reply = await self._link.call(self._claim, keys, [epoch, request_id])
        if reply[0] != 0:
            return
        entry = Entry.unpack(reply[1])
        stored = await write_debits(self._database, [self._expired(entry, epoch)])
        row = stored.get(request_id)
        if row is None or not await self._corrections.sync(partition, entry.account_id):
            return
        keys += [self._keys.account(entry.account_id), self._keys.key(entry.account_id, entry.key_id)]
        await self._link.call(self._drop, keys, [epoch, request_id, I8.pack(row.xseq or 0)])

    def _expired(self, entry: Entry, epoch: int) -> Debit:
        """The row of a hold whose gateway is gone: charged at its input estimate or not at all, and saying so."""
        debit = decode_debit(entry.payload)
        if self._expired_hold == "input" and entry.epoch == epoch:
            note = "the gateway was lost: charged at the estimate of the input"
            return msgspec.structs.replace(debit, admitted_at_ms=entry.at_ms, outcome="expired", note=note)
        return msgspec.structs.replace(
            debit,
            admitted_at_ms=entry.at_ms,
            outcome="expired",
            note="the gateway was lost: given back",
            input_tokens=0,
            cached_input_tokens=0,
            cache_write_tokens=0,
            output_tokens=0,
            reasoning_tokens=0,
            counts=None,
            cost_nano=0,
            charged_nano=0,
        )
