"""The outbox: debits that Redis has settled, on their way from this process to Postgres; and how many wait in all.

This file owns their order: a debit is in Redis's journal and here until Postgres has it; then it is forgotten here, and
Redis is sent the acknowledgement. `debit_writer` writes them.

It owns the bound `max_unsettled`, too. Every hold and every settled debit is an entry in some partition's journal until
Postgres has it. One partition's script sees its own journal alone, so each gateway adds them up: it knows its own
entries at every moment, and reads the size of all journals each second for those of the others. So the bound is exact
for one gateway, and several together exceed it by no more than the others admit within that second. An account whose
row in Postgres is locked may fill a part of that alone: the rest is for the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sized
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

from billing.errors import StoreError
from billing.holds.debit_writer import DebitWriter
from billing.holds.redis.connection import RedisError, Script
from billing.holds.redis.layout import ACK
from billing.ledger.debits import Debit

if TYPE_CHECKING:
    from billing.database.connection import Database
    from billing.holds.epochs import Partition, Partitions
    from billing.holds.redis.client import RedisClient
    from billing.holds.redis.state import Keyspace
    from billing.holds.spool import Spool
    from billing.ledger.writer import Stored

LOCKED_SHARE: Final = 16
"""One of so many parts of all is what the debits of one locked account may take up in one process."""


class Waiting(Sized, Protocol):
    """The outbox."""

    def count_aside(self, account_id: str) -> int: ...


class Backlog:
    """`live` are this process's running holds, `outbox` its debits that Postgres has not; `most` entries are allowed in
    the installation. `asking` admissions are on their way to Redis."""

    __slots__ = ("_journals", "_live", "_most", "_others", "_outbox", "_partitions", "_sizes", "asking")

    def __init__(self, partitions: Partitions, keyspace: Keyspace, live: Sized, outbox: Waiting, most: int) -> None:
        self._partitions = partitions
        self._journals = [keyspace.journal(partition.number) for partition in partitions.all]
        self._sizes = [0] * len(self._journals)
        self._live = live
        self._outbox = outbox
        self._most = most
        self._others = 0
        self.asking = 0

    @property
    def full(self) -> bool:
        """Return whether nothing more may be admitted."""
        return self._others + len(self._live) + len(self._outbox) + self.asking >= self._most

    def full_of(self, account_id: str) -> bool:
        """Return whether nothing more of this account may be admitted, because its row is locked."""
        return self._outbox.count_aside(account_id) * LOCKED_SHARE >= self._most

    async def look(self) -> None:
        """See what other gateways have in the journals; of a server that does not answer what it had last."""
        own = len(self._live) + len(self._outbox)
        await asyncio.gather(*map(self._look_at, self._partitions.all))
        own = max(own, len(self._live) + len(self._outbox))
        self._others = max(0, sum(self._sizes) - own)

    async def _look_at(self, partition: Partition) -> None:
        life = partition.life
        if life is not None and life.stands:
            with suppress(RedisError):
                self._sizes[partition.number] = await life.ask("HLEN", self._journals[partition.number])


logger = logging.getLogger(__name__)

ACKS_A_CALL: Final = 500
"""Entries that one call has Redis forget: it is held for well under a millisecond."""
GATHERED_ROWS: Final = 16
"""So many debits are worth a transaction: what it costs is shared by enough of them."""
LEAST_PAUSE_SHARE: Final = 0.25
"""Of `flush_s`: between the beginnings of two transactions, however many debits come."""


account_of: Final[Callable[[Debit], str]] = attrgetter("account_id")


class Outbox(DebitWriter[Debit]):
    """Writes debits in batches of at most `batch_rows`. A debit waits at most `flush_s` for its batch to begin, and not
    at all where the last one is as long ago. `sync` tells Redis of an account's corrections and answers whether it has
    them all; `on_failure` is as in `DebitWriter`. `spool`, where there is one, has a copy of what waits."""

    def __init__(
        self,
        database: Database,
        client: RedisClient,
        keyspace: Keyspace,
        partition_of: Callable[[str], Partition],
        sync: Callable[[Partition, str], Awaitable[bool]],
        on_failure: Callable[[Exception], None],
        *,
        batch_rows: int,
        flush_s: float,
    ) -> None:
        super().__init__(database, account_of, on_failure, batch_rows=batch_rows)
        self._client = client
        self._keyspace = keyspace
        self._partition_of = partition_of
        self._sync = sync
        self._flush_s = flush_s
        self._enough = asyncio.Event()
        self._begun_s = -flush_s
        self._ack = Script("ack")
        self.spool: Spool | None = None

    @property
    def locked(self) -> frozenset[str]:
        """Return accounts whose debits wait because their rows have been locked for a while."""
        return self.waiting.lasting

    def request_ids(self) -> frozenset[str]:
        """Return the requests whose debits wait here."""
        return frozenset(debit.request_id for debit in self.waiting)

    def older_than(self, partition: Partition, epoch: int) -> set[str]:
        """Return accounts of this partition of which a debit of an older epoch still waits."""
        return {
            debit.account_id
            for debit in self.waiting
            if debit.epoch is not None and debit.epoch < epoch and self._partition_of(debit.account_id) is partition
        }

    def add(self, debit: Debit) -> None:
        """Take a debit that Redis has settled."""
        if self.spool is not None:
            self.spool.add(debit)
        if not self.waiting.add(debit):
            return
        ready = len(self.waiting.ready)
        if ready == 1:
            self._arrived.set()
        elif ready == GATHERED_ROWS:
            self._enough.set()

    async def run(self) -> None:
        """Write for ever, with bounded back-off while Postgres is away."""
        while True:
            await self._until_due()
            await self._gather()
            await self._flush_or_pause()

    async def _gather(self) -> None:
        """Wait for more debits, for a transaction for each would cost more than serving it does: until `flush_s` after
        the last batch began at the latest."""
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
        """Write all that waits now, as `DebitWriter.flush`. Raises `DatabaseError`."""
        await super().flush()
        if len(self.waiting.ready) < GATHERED_ROWS:
            self._enough.clear()

    def _debits(self, items: list[Debit]) -> list[Debit]:
        return items

    async def _written(self, items: list[Debit], stored: dict[str, Stored]) -> None:
        try:
            if self.spool is not None:
                self.spool.written(items)
        finally:
            await self.acknowledge(items, stored)

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
        keys = [self._keyspace.meta(number), self._keyspace.journal(number)]
        positions: dict[str, int] = {}
        arguments: list[bytes | int] = [partition.epoch]
        for debit in debits:
            row = stored.get(debit.request_id)
            position, xseq = 0, row.xseq if row is not None else None  # one that was set aside is in Postgres, too
            if xseq is not None:
                if debit.account_id not in positions:
                    await self._sync(partition, debit.account_id)
                    keys.append(self._keyspace.account(debit.account_id))
                    positions[debit.account_id] = len(keys)
                position = positions[debit.account_id]
            arguments.append(ACK.pack(debit.request_id.encode(), position, xseq or 0))
        await self._client.call(self._ack, keys, arguments)
