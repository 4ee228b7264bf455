"""What other processes left behind, and what a new epoch asks of this one.

This file owns the sweep: a settled entry that nobody acknowledged is written to Postgres, a hold whose gateway is gone
expires (`expiry.py`). A hold of a gateway that lives never does, however old it is. Every step is harmless when done
twice or by two gateways.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from billing.holds.batcher import Item
from billing.holds.codec import CLAIMED, SETTLED, Entry
from billing.holds.connection import Link, Script
from billing.holds.expiry import Expiry
from billing.holds.hold import Hold, VoidItem, at_place
from billing.holds.keyspace import Keyspace
from billing.holds.loader import Loader
from billing.holds.outbox import Outbox
from billing.holds.partitions import Partition
from billing.holds.peers import Peers
from billing.holds.spool import left_behind, read_debits, taken
from billing.holds.sync import Corrections
from billing.ledger.debits import Debit, decode_debit, write_debits
from billing.ledger.postgres import Database, DatabaseError, queries

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
UNCORRECTED_LOADED: Final = _sql("uncorrected_loaded")
KNOWN_ACCOUNTS: Final = "SELECT id FROM accounts WHERE id = ANY ($1::text[])"
MOST_FOREIGN: Final = 1000
"""Spools of other ledgers that are remembered, so that they are not read again."""
SETTLED_AGE_MS: Final = 3000
"""A settled entry older than this was left behind: its gateway writes and acknowledges in well under a second."""
ORPHAN_AGE_MS: Final = 5000
"""An own hold that this process knows nothing of, and is this old, came from an admission nobody waited for."""
SETTLED_ROWS: Final = 500
"""Debits left behind are written and acknowledged in batches of so many."""
SCAN_COUNT: Final = 500
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


class ForeignSpool(DatabaseError):
    """A spool of another ledger, such as one that was here before: it is left alone."""


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
        peers: Peers,
        expiry: Expiry,
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
        self._peers = peers
        self._foreign: set[Path] = set()
        self._expiry = expiry
        self._rehold = Script("rehold")

    async def prepare(self, partition: Partition, epoch: int) -> bool:
        """What this gateway owes a new epoch before it may open: older debits written, running requests held again.

        Raises `DatabaseError`, `RedisError`, `LostWrites`.
        """
        if self._outbox.older_than(partition, epoch):
            await self._outbox.flush()
        await self._write_older(partition, epoch)
        await self.replay()
        known: TagsByName = {}
        for hold in [hold for hold in self._live.values() if hold.place.partition is partition and hold.epoch < epoch]:
            if hold.ending or not await self._hold_again(partition, hold, epoch, known):
                return False
        return await self._sync_loaded(partition, epoch)

    async def _write_older(self, partition: Partition, epoch: int) -> None:
        """Write what a journal that came back has of older epochs. Its gateways may be gone, and admission must not
        open on balances and windows that these debits are still missing from."""
        older: list[Debit] = []
        async for _, raw in self._link.scan_hash(self._keys.journal(partition.number).decode(), SCAN_COUNT):
            entry = Entry.unpack(raw)
            if entry.state == SETTLED and entry.epoch < epoch:
                older.append(at_place(decode_debit(entry.payload), entry.epoch, entry.dseq))
            if len(older) >= SETTLED_ROWS:
                await self._write(older)
        await self._write(older)

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

    async def sweep(self, partition: Partition, *, others: bool = True, at_once: bool = False) -> Swept:
        """Finish what is left behind in one partition's journal; without `others` no other gateway's hold is touched.

        `at_once`: a gateway has died or begins, so that debits which are not this process's own are taken for left
        behind whatever their age; one that lives may write the same once more. Raises `DatabaseError`, `RedisError`.
        """
        now_ms = partition.now_ms()
        waiting: list[Debit] = []
        held: dict[str, list[str]] = {}
        claimed: dict[str, Entry] = {}
        orphans: dict[str, list[tuple[str, Entry]]] = {}
        settled = voided = expired = 0
        own = self._outbox.request_ids() | self._live.keys() if at_once else frozenset()
        async for field, raw in self._link.scan_hash(self._keys.journal(partition.number).decode(), SCAN_COUNT):
            entry, request_id = Entry.unpack(raw), field.decode()
            age_ms = now_ms - entry.at_ms
            if entry.state == SETTLED:
                if age_ms > SETTLED_AGE_MS or (at_once and request_id not in own):
                    waiting.append(at_place(decode_debit(entry.payload), entry.epoch, entry.dseq))
            elif entry.gateway != self._gateway_id:
                held.setdefault(entry.gateway, []).append(request_id)
            elif entry.state == CLAIMED:
                claimed[request_id] = entry
            elif request_id not in self._live and age_ms > ORPHAN_AGE_MS:
                orphans.setdefault(entry.account_id, []).append((request_id, entry))
            if len(waiting) >= SETTLED_ROWS:
                settled += await self._write(waiting)
        settled += await self._write(waiting)
        for request_id in await self._expiry.take_back(partition, claimed):
            if request_id not in self._live:
                orphans.setdefault(claimed[request_id].account_id, []).append((request_id, claimed[request_id]))
        for account_id, found in orphans.items():
            voided += await self._void_orphans(partition, account_id, found)
        if others:
            for gateway, lost in self._peers.lost(held).items():
                expired += await self._expiry.expire(partition, lost, held[gateway])
        if settled or expired or voided:
            logger.info("swept: %d settled, %d expired, %d given back", settled, expired, voided)
        return Swept(settled, expired, voided)

    async def replay(self) -> int:
        """Write the debits of spools beside this process's own whose processes have ended; how many. Raises
        `DatabaseError`: what was not written stays then."""
        spool, replayed = self._outbox.spool, 0
        for path in left_behind(spool.folder) if spool is not None else ():
            if path in self._foreign:
                continue
            try:
                with taken(path) as ours:
                    debits = await asyncio.to_thread(read_debits, path) if ours else []
                    await self._check_known(path, debits)
                    for start in range(0, len(debits), SETTLED_ROWS):
                        replayed += await self._write(debits[start : start + SETTLED_ROWS])
            except ForeignSpool as error:
                logger.critical("%s: it is left there", error)
            except OSError as error:
                logger.error("%s is replayed later: %s", path, error)
        if replayed:
            logger.info("replayed %d debits of processes that have ended", replayed)
        return replayed

    async def _check_known(self, path: Path, debits: Sequence[Debit]) -> None:
        """Raises `ForeignSpool` where this ledger has not got every account of these debits."""
        accounts = {debit.account_id for debit in debits}
        known = {row["id"] for row in await self._database.rows(KNOWN_ACCOUNTS, list(accounts))} if accounts else set()
        if accounts - known:
            if len(self._foreign) < MOST_FOREIGN:
                self._foreign.add(path)
            raise ForeignSpool(f"{path} has debits of {len(accounts - known)} accounts that this ledger does not have")

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
