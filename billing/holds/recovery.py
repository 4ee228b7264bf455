"""What other processes left behind, and what a new epoch asks of this one.

This file owns the sweep: a settled entry that nobody acknowledged is written to Postgres, a hold whose gateway is gone
expires (`expiry.py`). A hold of a gateway that lives never does, however old it is. Every step is harmless when done
twice or by two gateways.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from billing.database.connection import Database, DatabaseLocked, queries
from billing.holds.corrections import Corrections
from billing.holds.expiry import Expiry
from billing.holds.hold import Hold, VoidItem
from billing.holds.journal import Reading
from billing.holds.loader import Loader
from billing.holds.outbox import Outbox
from billing.holds.partitions import Partition
from billing.holds.peers import Peers
from billing.holds.redis import RedisClient, Script
from billing.holds.redis.batcher import Item
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import CLAIMED, SETTLED, Entry
from billing.holds.replay import Replay
from billing.ledger.debits import Debit, decode_debit, write_free

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
UNCORRECTED_LOADED: Final = _sql("uncorrected_loaded")
SETTLED_AGE_MS: Final = 3000
"""A settled entry older than this was left behind: its gateway writes and acknowledges in well under a second."""
ORPHAN_AGE_MS: Final = 5000
"""An own hold that this process knows nothing of, and is this old, came from an admission nobody waited for."""
SETTLED_ROWS: Final = 500
"""Debits left behind are written and acknowledged in batches of so many."""
LOOKED_FOR: Final = 500
"""Running requests without an entry that are looked at in one sweep: one that is lost is enough for a new epoch."""
REHOLD_ATTEMPTS: Final = 3
REHELD_ROWS: Final = 100
"""Running requests that are held again, and asked for in the ledger, at once: their settlements wait for that."""
PREPARED_ACCOUNTS: Final = 10_000
"""Accounts that are told of corrections at one attempt to join an epoch."""

MOST_HELD_BACK: Final = 1000
"""Accounts that a gateway may leave behind as it joins an epoch: with more of them it does not join yet."""

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
    """`live` are this process's running holds; `submit` sends a void on the hot path; `doubt` is told of holds that
    are live here and not in Redis. `locked` answers the accounts whose settlements wait for a row that is locked."""

    def __init__(
        self,
        database: Database,
        link: RedisClient,
        keyspace: Keyspace,
        loader: Loader,
        outbox: Outbox,
        corrections: Corrections,
        live: Mapping[str, Hold],
        submit: Callable[[Partition, Item], None],
        doubt: Callable[[Partition, Sequence[str], int], Awaitable[None]],
        locked: Callable[[], Set[str]],
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
        self._doubt = doubt
        self._locked = locked
        self._gateway_id = gateway_id
        self._peers = peers
        self._replay = Replay(database, outbox)
        self._expiry = expiry
        self._rehold = Script("rehold")

    async def prepare(self, partition: Partition, epoch: int) -> frozenset[str] | None:
        """What this gateway owes a new epoch before it may open: older debits written, running requests held again. The
        accounts for which it could not be done, because their rows are locked; None: not yet, ask again.

        Raises `StoreError`, `LostWrites`.
        """
        back: set[str] = set()
        if self._outbox.older_than(partition, epoch):
            await self._outbox.flush()
            back |= self._outbox.older_than(partition, epoch)
            if not back <= self._outbox.aside:
                return None
        back |= await self._write_older(partition, epoch)
        await self.replay()
        back |= {each for each in self._replay.locked if self._keys.partition_of(each) == partition.number}
        older = [hold for hold in self._live.values() if hold.place.partition is partition and hold.epoch < epoch]
        known: TagsByName = {}
        for start in range(0, len(older), REHELD_ROWS):
            if not await self._hold_again(partition, older[start : start + REHELD_ROWS], epoch, known, back):
                return None
        ready = await self._sync_loaded(partition, epoch) and len(back) <= MOST_HELD_BACK
        return frozenset(back) if ready else None

    async def _write_older(self, partition: Partition, epoch: int) -> set[str]:
        """Write what a journal that came back has of older epochs. Its gateways may be gone, and admission must not
        open on balances and windows that these debits are still missing from: those of the accounts that are answered,
        whose rows are locked."""
        older: list[Debit] = []
        locked: set[str] = set()
        reading = self._read(partition)
        async for request_id, entry in reading:
            if entry.state == SETTLED and entry.epoch < epoch and entry.account_id not in locked:
                debit = await reading.debit(request_id, entry)
                if debit is not None:
                    older.append(debit)
            if len(older) >= SETTLED_ROWS:
                await self._write(older, locked)
        await self._write(older, locked)
        await reading.finish()
        return locked

    async def _sync_loaded(self, partition: Partition, epoch: int) -> bool:
        """Tell accounts that the new epoch has already of debits that were written after they had been loaded: until
        they know, admission would spend the same money and windows again."""
        rows = await self._database.rows(UNCORRECTED_LOADED, epoch, PREPARED_ACCOUNTS)
        for row in rows:
            ours = self._keys.partition_of(row["id"]) == partition.number
            if ours and not await self._corrections.sync(partition, row["id"]):
                return False
        return len(rows) < PREPARED_ACCOUNTS

    async def _hold_again(
        self, partition: Partition, holds: Sequence[Hold], epoch: int, known: TagsByName, back: set[str]
    ) -> bool:
        """Hold running requests again, then ask the ledger about them; whether all of it could be done. Those of
        accounts whose rows are locked stay as they are: these accounts are held `back`.

        While this process stood still another may have taken it for dead and have its holds expired: such a hold ends
        here at once. It stays in its older epoch, so that its settlement goes the ledger's own way and finds the row
        that decides. No settlement or void of these goes out meanwhile.
        """
        accounts = {hold.id: decode_debit(hold.payload).account_id for hold in holds}
        ending = {accounts[hold.id] for hold in holds if hold.ending}
        if not ending <= (back | self._locked()):
            return False
        back |= ending
        holds = [hold for hold in holds if accounts[hold.id] not in back]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for hold in holds:
            hold.reholding = done
        try:
            held: list[Hold] = []
            for hold in holds:
                if accounts[hold.id] in back:
                    continue
                try:
                    again = await self._rehold_one(partition, hold, epoch, known)
                except DatabaseLocked:
                    back.add(accounts[hold.id])
                    continue
                if again is None:
                    return False
                if again:
                    held.append(hold)
            closed = await self._expiry.decided([hold.id for hold in held])
            for hold in held:
                if hold.id in closed:
                    hold.closed(closed[hold.id].outcome)
            if closed and not await self._end_closed(partition, [hold for hold in held if hold.id in closed]):
                return False
            for hold in held:
                if hold.id not in closed:
                    hold.epoch = epoch
            return True
        finally:
            for hold in holds:
                hold.reholding = None
            done.set_result(None)

    async def _rehold_one(self, partition: Partition, hold: Hold, epoch: int, known: TagsByName) -> bool | None:
        """Whether Redis holds the request again, or knows its end; None: not yet. The ledger may have been replaced by
        one that has no such account: nothing is held then, and its debit is the ledger's to refuse."""
        debit = decode_debit(hold.payload)
        keys = [self._keys.meta(partition.number), self._keys.journal(partition.number)]
        for _ in range(REHOLD_ATTEMPTS):
            entry = hold.entry(epoch, await self._tags(debit, known))
            reply = await self._link.call(
                self._rehold, [*keys, hold.place.account_key, hold.place.key_key], [epoch, hold.id, entry]
            )
            if reply in (0, 2):
                return True
            if reply == 1:
                return None
            if not await self._loader.install(partition, debit.account_id, debit.key_id):
                return False
            known.clear()
        return None

    async def _end_closed(self, partition: Partition, holds: Sequence[Hold]) -> bool:
        """Give back holds that the ledger has a row of, once their accounts know of it; whether all could be."""
        ended = []
        for account_id in {decode_debit(hold.payload).account_id for hold in holds}:
            if not await self._corrections.sync(partition, account_id):
                return False
        for hold in holds:
            logger.warning("request %s runs on, but the ledger has closed its hold: its answer is cut", hold.id)
            item = VoidItem(hold.id_bytes, hold.place.account_key, hold.place.key_key)
            self._submit(partition, item)
            ended.append(item.answer)
        return None not in await asyncio.gather(*ended)

    async def _tags(self, debit: Debit, known: TagsByName) -> Tags:
        """The counters that a request counts in by the newest quotas: there may be others than at its admission."""
        name = (debit.key_id, debit.model, debit.feature)
        if name not in known:
            known[name] = await self._loader.tags(debit.account_id, *name)
        return known[name]

    async def sweep(self, partition: Partition, *, others: bool = True, at_once: bool = False) -> Swept:
        """Finish what is left behind in one partition's journal; without `others` no other gateway's hold is touched.

        `at_once`: a gateway has died or begins, so that debits which are not this process's own are taken for left
        behind whatever their age; one that lives may write the same once more. Raises `StoreError`.
        """
        now_ms, epoch = partition.now_ms(), partition.epoch
        unseen = self._running(partition, epoch)
        waiting: list[Debit] = []
        held: dict[str, list[str]] = {}
        claimed: dict[str, Entry] = {}
        orphans: dict[str, list[tuple[str, Entry]]] = {}
        locked: set[str] = set()
        settled = voided = expired = 0
        own = self._outbox.request_ids() | self._live.keys() if at_once else frozenset()
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
            elif entry.gateway != self._gateway_id:
                held.setdefault(entry.gateway, []).append(request_id)
            elif entry.state == CLAIMED:
                claimed[request_id] = entry
            elif request_id not in self._live and age_ms > ORPHAN_AGE_MS:
                orphans.setdefault(entry.account_id, []).append((request_id, entry))
            if len(waiting) >= SETTLED_ROWS:
                settled += await self._write(waiting, locked)
        settled += await self._write(waiting, locked)
        await reading.finish()
        await self._look_for(partition, epoch, unseen)
        taken_back, closed = await self._expiry.take_back(partition, claimed)
        for request_id in closed.keys() & self._live.keys():
            self._live[request_id].closed(closed[request_id].outcome)
        for request_id in taken_back:
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
        """Write what spools of this machine have of processes that have ended; see `Replay.run`."""
        return await self._replay.run()

    def _running(self, partition: Partition, epoch: int | None) -> dict[str, Hold]:
        """Requests of this process that Redis holds in this epoch, by id."""
        return {
            hold.id: hold
            for hold in self._live.values()
            if hold.epoch == epoch and hold.place.partition is partition and not hold.ending
        }

    async def _look_for(self, partition: Partition, epoch: int | None, unseen: Mapping[str, Hold]) -> None:
        """Running requests whose entries a scan of the whole journal has not shown: those that run still, and have no
        entry now either, were taken from this process or are lost."""
        if epoch is None or not unseen:
            return
        left = list(unseen)[:LOOKED_FOR]
        entries = await self._link.command("HMGET", self._keys.journal(partition.number), *left)
        running = self._running(partition, epoch)
        gone = [id_ for id_, raw in zip(left, entries, strict=True) if raw is None and id_ in running]
        if gone and partition.epoch == epoch:
            await self._doubt(partition, gone, epoch)

    def _read(self, partition: Partition) -> Reading:
        return Reading(self._database, self._link, self._keys, partition)

    async def _write(self, waiting: list[Debit], locked: set[str]) -> int:
        """Write and acknowledge a batch, and empty it; how many debits were written. Those of accounts whose rows are
        locked are left in the journal, and the accounts are noted."""
        batch = [debit for debit in waiting if debit.account_id not in locked]
        waiting.clear()
        if not batch:
            return 0
        written = await write_free(self._database, batch)
        locked |= written.locked
        done = [debit for debit in batch if debit.account_id not in locked]
        await self._outbox.acknowledge(done, written.stored)
        return len(done)

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
