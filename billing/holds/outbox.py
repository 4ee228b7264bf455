"""The outbox: settled debits on their way from this process to Postgres.

This file owns their order: a debit is in Redis's journal and here until Postgres has it; then it is forgotten here, and
Redis is told to forget it. Bounded by `max_unsettled`, which admission checks against the journal. Debits of accounts
whose rows somebody has locked in Postgres stand aside (`debit_queue.py`), so that the others are not kept waiting.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Set
from contextlib import suppress
from operator import attrgetter
from typing import Final

from billing.database.connection import Database, DatabaseError, DatabaseHindered
from billing.errors import StoreError
from billing.holds.debit_queue import DebitQueue
from billing.holds.partitions import Partition
from billing.holds.redis import RedisClient, Script
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import ACK
from billing.holds.spool import Spool
from billing.ledger.debits import Debit, Stored, write_free

logger = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 0.1
MOST_RETRY_S: Final = 5.0
ALARM_EVERY_S: Final = 60.0
"""The log repeats no oftener that Postgres is there and takes no debits."""
NAMED: Final = 5
"""Accounts that such a line names."""
ACKS_A_CALL: Final = 500
"""Entries that one call has Redis forget: it is held for well under a millisecond."""
GATHERED_ROWS: Final = 16
"""So many debits are worth a transaction: what it costs is shared by enough of them."""
LEAST_PAUSE_SHARE: Final = 0.25
"""Of `flush_s`: between the beginnings of two transactions, however many debits come."""


account_of: Final[Callable[[Debit], str]] = attrgetter("account_id")


class Outbox:
    """Writes debits in batches of at most `batch_rows`. A debit waits at most `flush_s` for its batch to begin, and not
    at all where the last one is as long ago. `sync` tells Redis of an account's corrections and answers whether it has
    them all. `spool`, where there is one, has a copy of what waits."""

    def __init__(
        self,
        database: Database,
        link: RedisClient,
        keyspace: Keyspace,
        partition_of: Callable[[str], Partition],
        sync: Callable[[Partition, str], Awaitable[bool]],
        *,
        batch_rows: int,
        flush_s: float,
    ) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._partition_of = partition_of
        self._sync = sync
        self._batch_rows = batch_rows
        self._flush_s = flush_s
        self._loop = asyncio.get_running_loop()
        self._waiting: DebitQueue[Debit] = DebitQueue(account_of, self._loop.time)
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._writing = asyncio.Lock()
        self._begun_s = -flush_s
        self.spool: Spool | None = None
        self._ack = Script("ack")
        self._rows = batch_rows
        self._alarmed_at = self._alarmed_locked_at = float("-inf")
        self.unavailable = False
        self.hindered = False
        """Whether Postgres is there and takes no debits, so that somebody must look why."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def locked(self) -> frozenset[str]:
        """Accounts whose debits wait because their rows have been locked for a while."""
        return self._waiting.lasting

    @property
    def aside(self) -> Set[str]:
        """Accounts whose debits wait because their rows are locked, if only for a moment."""
        return self._waiting.locked

    def count_aside(self, account_id: str) -> int:
        """How many debits of an account wait because its row is locked."""
        return self._waiting.count_aside(account_id)

    def request_ids(self) -> frozenset[str]:
        """The requests whose debits wait here."""
        return frozenset(debit.request_id for debit in self._waiting)

    def older_than(self, partition: Partition, epoch: int) -> set[str]:
        """Accounts of this partition of which a debit of an older epoch still waits."""
        return {
            debit.account_id
            for debit in self._waiting
            if debit.epoch is not None and debit.epoch < epoch and self._partition_of(debit.account_id) is partition
        }

    def add(self, debit: Debit) -> None:
        """Take a debit that Redis has settled."""
        if self.spool is not None:
            self.spool.add(debit)
        if not self._waiting.add(debit):
            return
        ready = len(self._waiting.ready)
        if ready == 1:
            self._arrived.set()
        elif ready == GATHERED_ROWS:
            self._enough.set()

    async def run(self) -> None:
        """Write for ever, with bounded back-off while Postgres is away."""
        retry_s = FIRST_RETRY_S
        while True:
            await self._anything_due()
            await self._gather()
            try:
                await self.flush()
                retry_s, self.unavailable, self.hindered = FIRST_RETRY_S, False, False
            except DatabaseError as error:
                self._alarm(error)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, MOST_RETRY_S)

    async def _anything_due(self) -> None:
        """Wait for a debit whose turn it is, or until those that stand aside are to be tried again."""
        if not self._waiting.ready:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._waiting.due_s):
                    await self._arrived.wait()

    async def _gather(self) -> None:
        """Wait for company: a transaction for each debit would cost more than serving it does. Nobody waits where the
        last batch is longer ago than that; it is over `flush_s` after it began at the latest."""
        loop, begun_s = self._loop, self._begun_s
        try:
            async with asyncio.timeout_at(begun_s + self._flush_s):
                await self._enough.wait()
        except TimeoutError:
            pass
        else:
            await asyncio.sleep(max(0.0, begun_s + self._flush_s * LEAST_PAUSE_SHARE - loop.time()))
        self._begun_s = loop.time()

    async def flush(self) -> None:
        """Write all that waits now, but for debits of accounts whose rows are locked: these wait on.

        Raises `DatabaseError`; what was not written still waits then.
        """
        async with self._writing:
            waiting = self._waiting
            left = len(waiting)
            while left > 0 and (batch := waiting.batch(self._rows)):
                try:
                    written = await write_free(self._database, batch)
                except DatabaseHindered:
                    self._make_way(batch)
                    raise
                self._rows = min(self._rows * 2, self._batch_rows)
                waiting.done(batch, written.locked)
                done = [debit for debit in batch if debit.account_id not in written.locked]
                if self.spool is not None:
                    self.spool.written(done)
                left -= len(batch)
                await self.acknowledge(done, written.stored)
            if not waiting.ready:
                self._arrived.clear()
            if len(waiting.ready) < GATHERED_ROWS:
                self._enough.clear()
        self._alarm_locked()

    async def drain(self) -> None:
        """Write all that waits, locked accounts' too, however long that takes. Raises `DatabaseError`."""
        while len(self._waiting):
            due_s = self._waiting.due_s
            if due_s is not None and not self._waiting.ready:
                await asyncio.sleep(due_s - self._loop.time())
            await self.flush()

    def _make_way(self, batch: list[Debit]) -> None:
        """The next attempt takes half as many, and one debit that fails alone goes behind the others: should the cause
        lie in it after all, it keeps nobody waiting. A cause that passes costs one statement an attempt, as before."""
        if len(batch) > 1:
            self._rows = (len(batch) + 1) // 2
        elif batch:
            self._waiting.put_behind()

    def _alarm(self, error: DatabaseError) -> None:
        """Say that debits wait: once an outage, and each ALARM_EVERY_S where Postgres itself is there."""
        hindered, now = isinstance(error, DatabaseHindered), time.monotonic()
        if hindered and now - self._alarmed_at >= ALARM_EVERY_S:
            logger.error("%d debits wait, for Postgres does not take them: %s", len(self._waiting), error)
            self._alarmed_at = now
        elif not hindered and not self.unavailable:
            logger.warning("%d debits wait for Postgres: %s", len(self._waiting), error)
        self.unavailable, self.hindered = True, hindered

    def _alarm_locked(self) -> None:
        """Say that debits wait for rows that somebody else has locked, each ALARM_EVERY_S."""
        locked, now = self._waiting.lasting, time.monotonic()
        if locked and now - self._alarmed_locked_at >= ALARM_EVERY_S:
            waiting = sum(map(self._waiting.count_aside, locked))
            logger.error(
                "%d debits wait, for the rows of %d accounts in Postgres are locked by another session: %s",
                *(waiting, len(locked), ", ".join(sorted(locked)[:NAMED])),
            )
            self._alarmed_locked_at = now

    async def acknowledge(self, debits: Iterable[Debit], stored: dict[str, Stored]) -> None:
        """Let Redis forget debits that Postgres has. One that stays, or a Redis that is away, is left to the journal's
        drain: acknowledging is never what makes a debit safe."""
        by_partition: dict[int, list[Debit]] = {}
        for debit in debits:
            by_partition.setdefault(self._partition_of(debit.account_id).number, []).append(debit)
        for number, group in by_partition.items():
            partition = self._partition_of(group[0].account_id)
            try:
                for start in range(0, len(group), ACKS_A_CALL):
                    await self._acknowledge(partition, number, group[start : start + ACKS_A_CALL], stored)
            except StoreError as error:
                logger.info("%d debits stay in the journal for now: %s", len(group), error)

    async def _acknowledge(
        self, partition: Partition, number: int, debits: list[Debit], stored: dict[str, Stored]
    ) -> None:
        if partition.epoch is None:
            return
        keys = [self._keys.meta(number), self._keys.journal(number)]
        places: dict[str, int] = {}
        arguments: list[bytes | int] = [partition.epoch]
        for debit in debits:
            row = stored.get(debit.request_id)
            place, xseq = 0, row.xseq if row is not None else None  # one that was set aside is in Postgres, too
            if xseq is not None:
                if debit.account_id not in places:
                    await self._sync(partition, debit.account_id)
                    keys.append(self._keys.account(debit.account_id))
                    places[debit.account_id] = len(keys)
                place = places[debit.account_id]
            arguments.append(ACK.pack(debit.request_id.encode(), place, xseq or 0))
        await self._link.call(self._ack, keys, arguments)
