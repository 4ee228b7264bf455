"""The outbox: settled debits on their way from this process to Postgres.

This file owns their order: a debit is in Redis's journal and here until Postgres has it; then it is forgotten here, and
Redis is told to forget it. Bounded by `max_unsettled`, which admission checks against the journal.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from billing.holds.codec import ACK
from billing.holds.connection import Link, RedisError, Script
from billing.holds.keyspace import Keyspace
from billing.holds.partitions import Partition
from billing.holds.spool import Spool
from billing.ledger.debits import Debit, Stored, write_debits
from billing.ledger.postgres import Database, DatabaseError, DatabaseHindered

logger = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 0.1
MOST_RETRY_S: Final = 5.0
ALARM_EVERY_S: Final = 60.0
"""The log repeats no oftener that Postgres is there and takes no debits."""
ACKS_A_CALL: Final = 500
"""Entries that one call has Redis forget: it is held for well under a millisecond."""
GATHERED_ROWS: Final = 16
"""So many debits are worth a transaction: what it costs is shared by enough of them."""
LEAST_PAUSE_SHARE: Final = 0.25
"""Of `flush_s`: between the beginnings of two transactions, however many debits come."""


class Outbox:
    """Writes debits in batches of at most `batch_rows`. A debit waits at most `flush_s` for its batch to begin, and not
    at all where the last one is as long ago. `sync` tells Redis of an account's corrections and answers whether it has
    them all. `spool`, where there is one, has a copy of what waits."""

    def __init__(
        self,
        database: Database,
        link: Link,
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
        self._waiting: list[Debit] = []
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._writing = asyncio.Lock()
        self._begun_s = -flush_s
        self.spool: Spool | None = None
        self._ack = Script("ack")
        self._rows = batch_rows
        self._alarmed_at = float("-inf")
        self.unavailable = False
        self.hindered = False
        """Whether Postgres is there and takes no debits, so that somebody must look why."""

    def __len__(self) -> int:
        return len(self._waiting)

    def request_ids(self) -> frozenset[str]:
        """The requests whose debits wait here."""
        return frozenset(debit.request_id for debit in self._waiting)

    def older_than(self, partition: Partition, epoch: int) -> bool:
        """Whether a debit of an older epoch of this partition still waits."""
        return any(
            debit.epoch is not None and debit.epoch < epoch and self._partition_of(debit.account_id) is partition
            for debit in self._waiting
        )

    def add(self, debit: Debit) -> None:
        """Take a debit that Redis has settled."""
        self._waiting.append(debit)
        if self.spool is not None:
            self.spool.add(debit)
        if len(self._waiting) == 1:
            self._arrived.set()
        if len(self._waiting) == GATHERED_ROWS:
            self._enough.set()

    async def run(self) -> None:
        """Write for ever, with bounded back-off while Postgres is away."""
        retry_s = FIRST_RETRY_S
        while True:
            await self._arrived.wait()
            await self._gather()
            try:
                await self.flush()
                retry_s, self.unavailable, self.hindered = FIRST_RETRY_S, False, False
            except DatabaseError as error:
                self._alarm(error)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, MOST_RETRY_S)

    async def _gather(self) -> None:
        """Wait for company: a transaction for each debit would cost more than serving it does. Nobody waits where the
        last batch is longer ago than that; it is over `flush_s` after it began at the latest."""
        loop, begun_s = asyncio.get_running_loop(), self._begun_s
        try:
            async with asyncio.timeout_at(begun_s + self._flush_s):
                await self._enough.wait()
        except TimeoutError:
            pass
        else:
            await asyncio.sleep(max(0.0, begun_s + self._flush_s * LEAST_PAUSE_SHARE - loop.time()))
        self._begun_s = loop.time()

    async def flush(self) -> None:
        """Write all that waits now. Raises `DatabaseError`; what was not written still waits then."""
        async with self._writing:
            left = len(self._waiting)
            while left > 0:
                batch = self._waiting[: self._rows]
                try:
                    stored = await write_debits(self._database, batch)
                except DatabaseHindered:
                    self._make_way(batch)
                    raise
                self._rows = min(self._rows * 2, self._batch_rows)
                del self._waiting[: len(batch)]
                if self.spool is not None:
                    self.spool.written(len(batch))
                left -= len(batch)
                await self.acknowledge(batch, stored)
            if not self._waiting:
                self._arrived.clear()
            if len(self._waiting) < GATHERED_ROWS:
                self._enough.clear()

    def _make_way(self, batch: list[Debit]) -> None:
        """The next attempt takes half as many, and one debit that fails alone goes behind the others: should the cause
        lie in it after all, it keeps nobody waiting. A cause that passes costs one statement an attempt, as before."""
        if len(batch) > 1:
            self._rows = (len(batch) + 1) // 2
        elif batch:
            self._waiting.append(self._waiting.pop(0))
            if self.spool is not None:  # which counts debits in their order
                self.spool.add(batch[0])
                self.spool.written(1)

    def _alarm(self, error: DatabaseError) -> None:
        """Say that debits wait: once an outage, and each ALARM_EVERY_S where Postgres itself is there."""
        hindered, now = isinstance(error, DatabaseHindered), time.monotonic()
        if hindered and now - self._alarmed_at >= ALARM_EVERY_S:
            logger.error("%d debits wait, for Postgres does not take them: %s", len(self._waiting), error)
            self._alarmed_at = now
        elif not hindered and not self.unavailable:
            logger.warning("%d debits wait for Postgres: %s", len(self._waiting), error)
        self.unavailable, self.hindered = True, hindered

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
            except (RedisError, DatabaseError) as error:
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
