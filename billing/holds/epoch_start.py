"""How this gateway takes part in a new epoch (rule R6).

Its older debits reach the ledger, running requests are held again and the ledger is asked about them, loaded accounts
get their corrections, and only then does the gateway join the epoch. It opens when every gateway with a living lease
has joined, and only while the clocks of both stores agree. Accounts for which some of this can't be done, because their
rows are locked, are quarantined: nobody serves them until it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from billing.database.connection import DatabaseLocked, queries
from billing.errors import StoreError
from billing.holds.epochs import APART_MS, NotReady, Partition, Partitions
from billing.holds.model import Hold, Rehold, VoidItem
from billing.holds.recovery import Reading
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import SETTLED, HoldTags
from billing.ledger.debits import Debit, decode_debit
from billing.work import SingleFlight

if TYPE_CHECKING:
    from billing.holds.batch import RunningHolds
    from billing.holds.debit_writer import DirectLedgerWriter
    from billing.holds.lasting import LastingHold, LastingHolds
    from billing.holds.loading import Corrections, Loader
    from billing.holds.outbox import Outbox, Replay
    from billing.holds.recovery import Expiry

logger = logging.getLogger(__name__)

UNCORRECTED_LOADED: Final = queries("billing.holds")("uncorrected_loaded")
# Older debits that are written at once.
SETTLED_ROWS: Final = 500
REHOLD_ATTEMPTS: Final = 3
# Running requests that are held again, and asked for in the ledger, at once: their settlements wait for that.
REHELD_ROWS: Final = 100
# Accounts that are sent corrections at one attempt to join an epoch.
PREPARED_ACCOUNTS: Final = 10_000
# Accounts that a gateway may quarantine as it joins an epoch: with more of them it does not join yet.
MOST_QUARANTINED: Final = 1000

# By key, model and feature.
TagsByName = dict[tuple[str, str, str], HoldTags]


@dataclass(kw_only=True, eq=False)
class EpochStart:
    """Joins partitions' epochs for one gateway."""

    gateway_id: str
    partitions: Partitions
    corrections: Corrections
    loader: Loader
    running: RunningHolds
    outbox: Outbox
    direct: DirectLedgerWriter
    replay: Replay
    expiry: Expiry
    lasting: LastingHolds
    _joins: SingleFlight[bool] = field(init=False, default_factory=SingleFlight)
    _join_script: Script = field(init=False, default_factory=partial(Script, "join"))
    _rehold: Script = field(init=False, default_factory=partial(Script, "rehold"))

    async def join(self, partition: Partition) -> bool:
        """Take part in the partition's epoch; return whether it is open. Raises `NotReady`, `LostWrites`."""
        return await self._joins.run(partition.number, lambda: self._join(partition))

    async def _join(self, partition: Partition) -> bool:
        epoch = await self.partitions.ensure(partition)
        try:
            if self.partitions.ledger.now_ms() is None:
                await self.partitions.refresh_ledger()
            apart_ms, was_apart = self.partitions.clock_difference_ms(partition), partition.apart
            partition.apart = abs(apart_ms) > APART_MS
            if partition.apart and not was_apart:
                ahead_s = apart_ms // 1000
                logger.error("partition %d: Redis's clock is %d s ahead of Postgres's", partition.number, ahead_s)
            if partition.apart:
                return False
            unready = await self._unready(partition, epoch)
            if unready is None:
                return False
            gone = list(self.partitions.peers.lost(partition.quarantined_by))
            back = sorted(unready)
            keys = [partition.meta, partition.joined, partition.installed]
            head = epoch, self.gateway_id, len(back), len(gone)
            arguments: list[str | int] = [*head, *back, *gone, *await self.partitions.peers.living()]
            is_open, *holding = await self.partitions.redis.client.call(
                self._join_script, keys + [self.partitions.keyspace.account(each) for each in back], arguments
            )
        except StoreError as error:
            raise NotReady(str(error)) from error
        if is_open == -1:
            partition.forget()
            return False
        if unready and partition.joined_epoch != epoch:
            logger.error(
                "partition %d: the rows of %d accounts in Postgres are locked: not served for now",
                partition.number,
                len(unready),
            )
        partition.joined_epoch, partition.quarantined = epoch, unready
        partition.quarantined_by = [name.decode() for name in holding]
        return bool(is_open == 1)

    async def _unready(self, partition: Partition, epoch: int) -> frozenset[str] | None:
        """Return the accounts that this gateway quarantines; None where it can't join yet. Once it has joined there are
        never more of them. Raises `StoreError`."""
        joined, before = partition.joined_epoch == epoch, partition.quarantined
        if joined and not before:
            return before
        unready = await self.prepare(partition, epoch)
        if not joined:
            return unready
        return before if unready is None else before & unready

    async def prepare(self, partition: Partition, epoch: int) -> frozenset[str] | None:
        """Do what this gateway owes a new epoch before it may open: write older debits, hold running requests again.
        Return the accounts for which it could not be done, because their rows are locked; None: not yet, ask again.

        Raises `StoreError`, `LostWrites`.
        """
        back: set[str] = set()
        if self.outbox.older_than(partition, epoch):
            await self.outbox.flush()
            back |= self.outbox.older_than(partition, epoch)
            if not back <= self.outbox.locked:
                return None
        back |= await self._write_older(partition, epoch)
        await self.replay.run()
        back |= {each for each in self.replay.locked if self.partitions.keyspace.partition_of(each) == partition.number}
        older = [
            hold for hold in self.running.live.values() if hold.target.partition is partition and hold.epoch < epoch
        ]
        known: TagsByName = {}
        for start in range(0, len(older), REHELD_ROWS):
            if not await self._hold_again(partition, older[start : start + REHELD_ROWS], epoch, known, back):
                return None
        async for lasting in self.lasting.held(partition):
            if not await self._hold_lasting(partition, lasting, epoch, known, back):
                return None
        ready = await self._sync_loaded(partition, epoch) and len(back) <= MOST_QUARANTINED
        return frozenset(back) if ready else None

    async def _write_older(self, partition: Partition, epoch: int) -> set[str]:
        """Write what a journal that came back has of older epochs. Its gateways may be gone, and admission must not
        open on balances and windows that these debits are still missing from: those of the accounts that are answered,
        whose rows are locked."""
        older: list[Debit] = []
        locked: set[str] = set()
        reading = Reading(self.partitions, partition)
        async for request_id, entry in reading:
            if entry.state == SETTLED and entry.epoch < epoch and entry.account_id not in locked:
                debit = await reading.debit(request_id, entry)
                if debit is not None:
                    older.append(debit)
            if len(older) >= SETTLED_ROWS:
                await self.outbox.write(older, locked)
                older.clear()
        await self.outbox.write(older, locked)
        await reading.finish()
        return locked

    async def _sync_loaded(self, partition: Partition, epoch: int) -> bool:
        """Send debits that were written after their accounts had been loaded into the new epoch: until they have them,
        admission would spend the same money and windows again."""
        rows = await self.partitions.database.rows(UNCORRECTED_LOADED, epoch, PREPARED_ACCOUNTS)
        for row in rows:
            ours = self.partitions.keyspace.partition_of(row["id"]) == partition.number
            if ours and not await self.corrections.sync(partition, row["id"]):
                return False
        return len(rows) < PREPARED_ACCOUNTS

    async def _hold_again(
        self, partition: Partition, holds: Sequence[Hold], epoch: int, known: TagsByName, back: set[str]
    ) -> bool:
        """Hold running requests again, then ask the ledger about them; return whether all of it could be done. Those of
        accounts whose rows are locked stay as they are: these accounts go to `back`.

        While this process stood still another may have taken it for dead and have its holds expired: such a hold ends
        here at once. It stays in its older epoch, so that its settlement is a direct ledger write and finds the row
        that decides. No settlement or void of these goes out meanwhile.
        """
        accounts = {hold.id: decode_debit(hold.payload).account_id for hold in holds}
        ending = {accounts[hold.id] for hold in holds if not hold.is_open}
        if not ending <= (back | self.direct.locked):
            return False
        back |= ending
        holds = [hold for hold in holds if accounts[hold.id] not in back]
        with Rehold(holds):
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
            closed = await self.expiry.decided([hold.id for hold in held])
            for hold in held:
                if hold.id in closed:
                    hold.closed(closed[hold.id].outcome)
            if closed and not await self._end_closed(partition, [hold for hold in held if hold.id in closed]):
                return False
            for hold in held:
                if hold.id not in closed:
                    hold.epoch = epoch
            return True

    async def _hold_lasting(
        self, partition: Partition, holds: Sequence[LastingHold], epoch: int, known: TagsByName, back: set[str]
    ) -> bool:
        """Hold again what outlasts processes, whichever gateway made it; return whether all of it could be done.
        Accounts whose rows are locked go to `back`."""
        for hold in holds:
            if hold.debit.account_id in back:
                continue
            try:
                if await self._rehold_one(partition, hold, epoch, known) is None:
                    return False
            except DatabaseLocked:
                back.add(hold.debit.account_id)
        await self.lasting.release_ended(partition, holds)
        return True

    async def _rehold_one(
        self, partition: Partition, hold: Hold | LastingHold, epoch: int, known: TagsByName
    ) -> bool | None:
        """Return whether Redis holds the request again, or knows its end; None: not yet. The ledger may have been
        replaced by one that has no such account: nothing is held then, and its debit is the ledger's to refuse."""
        debit = decode_debit(hold.payload)
        keys = [partition.meta, partition.journal]
        for _ in range(REHOLD_ATTEMPTS):
            states, user_key = [hold.target.account_key, hold.target.key_key], hold.target.any_user_key
            tags = await self._tags(debit, known, None if user_key is None else debit.user_id)
            if tags.user is not None and user_key is not None:
                states.append(user_key)
            entry = hold.entry(epoch, tags)
            reply = await self.partitions.redis.client.call(self._rehold, [*keys, *states], [epoch, hold.id, entry])
            if reply in (0, 2):
                return True
            if reply == 1:
                return None
            if not await self.loader.install(partition, debit.account_id, debit.key_id):
                return False
            known.clear()
        return None

    async def _end_closed(self, partition: Partition, holds: Sequence[Hold]) -> bool:
        """Give back holds that the ledger has a row of, once their accounts know of it; return whether all could be."""
        ended = []
        for account_id in {decode_debit(hold.payload).account_id for hold in holds}:
            if not await self.corrections.sync(partition, account_id):
                return False
        for hold in holds:
            logger.warning("request %s runs on, but the ledger has closed its hold: its answer is cut", hold.id)
            item = VoidItem(hold.id_bytes, hold.target)
            self.running.submit(partition, item)
            ended.append(item.answer)
        return None not in await asyncio.gather(*ended)

    async def _tags(self, debit: Debit, known: TagsByName, user_id: str | None) -> HoldTags:
        """Return the counters that a request counts in by the newest quotas: there may be others than at its
        admission. `user_id` is that of its key, which a service's debit may name otherwise."""
        name = key_id, model, feature = (debit.key_id, debit.model, debit.feature)
        if name not in known:
            known[name] = await self.loader.tags(debit.account_id, key_id, user_id, model, feature)
        return known[name]
