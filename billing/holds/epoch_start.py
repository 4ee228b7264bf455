"""The start of an epoch in this gateway (rule R6 of docs/protocol.md).

This file owns the order: older debits reach the ledger, running requests are held again and the ledger is asked about
them, loaded accounts are told of corrections, and only then does this gateway join the epoch. It opens when every
gateway with a living lease has joined, and only while the clocks of both stores agree. Accounts of which some part
can't be done, because their rows are locked, are held back: nobody serves them until it is.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from billing.database.connection import Database, DatabaseLocked, queries
from billing.errors import StoreError
from billing.holds.hold import Hold, Moving
from billing.holds.items import VoidItem
from billing.holds.journal import Reading, write_settled
from billing.holds.partition import NotReady, Partition
from billing.holds.partitions import APART_MS, Partitions
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import SETTLED, HoldTags
from billing.holds.singleflight import SingleFlight
from billing.ledger.debits import Debit, decode_debit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.holds.hold import RunningHolds
    from billing.holds.lasting import LastingHold, LastingHolds
    from billing.holds.lease import Peers
    from billing.holds.loader import Loader
    from billing.holds.outbox import Outbox
    from billing.holds.recovery import Expiry
    from billing.holds.redis.state import RedisState
    from billing.holds.repairs import Corrections
    from billing.holds.replay import LedgerWay, Replay

logger = logging.getLogger(__name__)

UNCORRECTED_LOADED: Final = queries("billing.holds")("uncorrected_loaded")
SETTLED_ROWS: Final = 500
"""Older debits that are written at once."""
REHOLD_ATTEMPTS: Final = 3
REHELD_ROWS: Final = 100
"""Running requests that are held again, and asked for in the ledger, at once: their settlements wait for that."""
PREPARED_ACCOUNTS: Final = 10_000
"""Accounts that are told of corrections at one attempt to join an epoch."""
MOST_HELD_BACK: Final = 1000
"""Accounts that a gateway may leave behind as it joins an epoch: with more of them it does not join yet."""

TagsByName = dict[tuple[str, str, str], HoldTags]
"""By key, model and feature."""


class EpochStart:
    """Joins partitions' epochs for one gateway. `ledger_way` has the settlements that Redis did not confirm."""

    def __init__(
        self,
        database: Database,
        redis: RedisState,
        partitions: Partitions,
        peers: Peers,
        gateway_id: str,
        loader: Loader,
        outbox: Outbox,
        corrections: Corrections,
        running: RunningHolds,
        ledger_way: LedgerWay,
        replay: Replay,
        expiry: Expiry,
        lasting: LastingHolds,
    ) -> None:
        self._database = database
        self._redis = redis
        self._client = redis.client
        self._keyspace = redis.keyspace
        self._partitions = partitions
        self._peers = peers
        self._gateway_id = gateway_id
        self._loader = loader
        self._outbox = outbox
        self._corrections = corrections
        self._running = running
        self._ledger_way = ledger_way
        self._replay = replay
        self._expiry = expiry
        self._lasting = lasting
        self._joins: SingleFlight[bool] = SingleFlight()
        self._join_script, self._rehold = Script("join"), Script("rehold")

    async def join(self, partition: Partition) -> bool:
        """Take part in the partition's epoch; return whether it is open. Raises `NotReady`, `LostWrites`."""
        return await self._joins.run(partition.number, lambda: self._join(partition))

    async def _join(self, partition: Partition) -> bool:
        epoch = await self._partitions.ensure(partition)
        try:
            if self._partitions.ledger.now_ms() is None:
                await self._partitions.look_at_ledger()
            apart_ms, was_apart = self._partitions.clock_difference_ms(partition), partition.apart
            partition.apart = abs(apart_ms) > APART_MS
            if partition.apart and not was_apart:
                ahead_s = apart_ms // 1000
                logger.error("partition %d: Redis's clock is %d s ahead of Postgres's", partition.number, ahead_s)
            if partition.apart:
                return False
            unready = await self._unready(partition, epoch)
            if unready is None:
                return False
            gone = list(self._peers.lost(partition.held_back_by))
            number, back = partition.number, sorted(unready)
            keys = [self._keyspace.meta(number), self._keyspace.joined(number), self._keyspace.installed(number)]
            head = epoch, self._gateway_id, len(back), len(gone)
            arguments: list[str | int] = [*head, *back, *gone, *await self._peers.living()]
            is_open, *holding = await self._client.call(
                self._join_script, keys + [self._keyspace.account(each) for each in back], arguments
            )
        except StoreError as error:
            raise NotReady(str(error)) from error
        if is_open == -1:
            partition.forget()
            return False
        if unready and partition.joined_epoch != epoch:
            logger.error(
                "partition %d: the rows of %d accounts in Postgres are locked: not served for now", number, len(unready)
            )
        partition.joined_epoch, partition.holding_back = epoch, unready
        partition.held_back_by = [name.decode() for name in holding]
        return bool(is_open == 1)

    async def _unready(self, partition: Partition, epoch: int) -> frozenset[str] | None:
        """Return the accounts that this gateway holds back; None where it can't join yet. Once it has joined there are
        never more of them. Raises `StoreError`."""
        joined, before = partition.joined_epoch == epoch, partition.holding_back
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
        if self._outbox.older_than(partition, epoch):
            await self._outbox.flush()
            back |= self._outbox.older_than(partition, epoch)
            if not back <= self._outbox.aside:
                return None
        back |= await self._write_older(partition, epoch)
        await self._replay.run()
        back |= {each for each in self._replay.locked if self._keyspace.partition_of(each) == partition.number}
        older = [
            hold for hold in self._running.live.values() if hold.target.partition is partition and hold.epoch < epoch
        ]
        known: TagsByName = {}
        for start in range(0, len(older), REHELD_ROWS):
            if not await self._hold_again(partition, older[start : start + REHELD_ROWS], epoch, known, back):
                return None
        async for lasting in self._lasting.held(partition):
            if not await self._hold_lasting(partition, lasting, epoch, known, back):
                return None
        ready = await self._sync_loaded(partition, epoch) and len(back) <= MOST_HELD_BACK
        return frozenset(back) if ready else None

    async def _write_older(self, partition: Partition, epoch: int) -> set[str]:
        """Write what a journal that came back has of older epochs. Its gateways may be gone, and admission must not
        open on balances and windows that these debits are still missing from: those of the accounts that are answered,
        whose rows are locked."""
        older: list[Debit] = []
        locked: set[str] = set()
        reading = Reading(self._database, self._redis, partition)
        async for request_id, entry in reading:
            if entry.state == SETTLED and entry.epoch < epoch and entry.account_id not in locked:
                debit = await reading.debit(request_id, entry)
                if debit is not None:
                    older.append(debit)
            if len(older) >= SETTLED_ROWS:
                await write_settled(self._database, self._outbox, older, locked)
        await write_settled(self._database, self._outbox, older, locked)
        await reading.finish()
        return locked

    async def _sync_loaded(self, partition: Partition, epoch: int) -> bool:
        """Tell accounts that the new epoch has already of debits that were written after they had been loaded: until
        they know, admission would spend the same money and windows again."""
        rows = await self._database.rows(UNCORRECTED_LOADED, epoch, PREPARED_ACCOUNTS)
        for row in rows:
            ours = self._keyspace.partition_of(row["id"]) == partition.number
            if ours and not await self._corrections.sync(partition, row["id"]):
                return False
        return len(rows) < PREPARED_ACCOUNTS

    async def _hold_again(
        self, partition: Partition, holds: Sequence[Hold], epoch: int, known: TagsByName, back: set[str]
    ) -> bool:
        """Hold running requests again, then ask the ledger about them; return whether all of it could be done. Those of
        accounts whose rows are locked stay as they are: these accounts are held `back`.

        While this process stood still another may have taken it for dead and have its holds expired: such a hold ends
        here at once. It stays in its older epoch, so that its settlement goes the ledger's own way and finds the row
        that decides. No settlement or void of these goes out meanwhile.
        """
        accounts = {hold.id: decode_debit(hold.payload).account_id for hold in holds}
        ending = {accounts[hold.id] for hold in holds if not hold.is_open}
        if not ending <= (back | self._ledger_way.aside):
            return False
        back |= ending
        holds = [hold for hold in holds if accounts[hold.id] not in back]
        with Moving(holds):
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

    async def _hold_lasting(
        self, partition: Partition, holds: Sequence[LastingHold], epoch: int, known: TagsByName, back: set[str]
    ) -> bool:
        """Hold again what outlasts processes, whichever gateway made it; return whether all of it could be done. Those
        of accounts whose rows are locked keep their accounts `back`."""
        for hold in holds:
            if hold.debit.account_id in back:
                continue
            try:
                if await self._rehold_one(partition, hold, epoch, known) is None:
                    return False
            except DatabaseLocked:
                back.add(hold.debit.account_id)
        await self._lasting.release_ended(partition, holds)
        return True

    async def _rehold_one(
        self, partition: Partition, hold: Hold | LastingHold, epoch: int, known: TagsByName
    ) -> bool | None:
        """Return whether Redis holds the request again, or knows its end; None: not yet. The ledger may have been
        replaced by one that has no such account: nothing is held then, and its debit is the ledger's to refuse."""
        debit = decode_debit(hold.payload)
        keys = [self._keyspace.meta(partition.number), self._keyspace.journal(partition.number)]
        for _ in range(REHOLD_ATTEMPTS):
            states, user_key = [hold.target.account_key, hold.target.key_key], hold.target.any_user_key
            tags = await self._tags(debit, known, None if user_key is None else debit.user_id)
            if tags.user is not None and user_key is not None:
                states.append(user_key)
            entry = hold.entry(epoch, tags)
            reply = await self._client.call(self._rehold, [*keys, *states], [epoch, hold.id, entry])
            if reply in (0, 2):
                return True
            if reply == 1:
                return None
            if not await self._loader.install(partition, debit.account_id, debit.key_id):
                return False
            known.clear()
        return None

    async def _end_closed(self, partition: Partition, holds: Sequence[Hold]) -> bool:
        """Give back holds that the ledger has a row of, once their accounts know of it; return whether all could be."""
        ended = []
        for account_id in {decode_debit(hold.payload).account_id for hold in holds}:
            if not await self._corrections.sync(partition, account_id):
                return False
        for hold in holds:
            logger.warning("request %s runs on, but the ledger has closed its hold: its answer is cut", hold.id)
            target = hold.target
            item = VoidItem(hold.id_bytes, target.account_key, target.key_key, target.any_user_key)
            self._running.submit(partition, item)
            ended.append(item.answer)
        return None not in await asyncio.gather(*ended)

    async def _tags(self, debit: Debit, known: TagsByName, user_id: str | None) -> HoldTags:
        """Return the counters that a request counts in by the newest quotas: there may be others than at its
        admission. `user_id` is that of its key, which a service's debit may name otherwise."""
        name = key_id, model, feature = (debit.key_id, debit.model, debit.feature)
        if name not in known:
            known[name] = await self._loader.tags(debit.account_id, key_id, user_id, model, feature)
        return known[name]
