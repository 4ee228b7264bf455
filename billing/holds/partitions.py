"""Partitions: the life of the Redis server behind each, and the epoch that numbers it.

This file owns rules R1 and R6 of the protocol: a server whose identity is new or changed begins a new epoch in
Postgres, is fenced, and opens only when every gateway with a living lease has brought its older debits to the ledger
and holds its running requests again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from billing.holds.connection import Link, RedisError, Script
from billing.holds.flight import SingleFlight
from billing.holds.keyspace import Keyspace
from billing.ledger.postgres import Database, DatabaseError, queries

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
READ_PARTITION: Final = _sql("partitions_read")
MOVE_EPOCH: Final = _sql("partitions_move_epoch")
LIVE_GATEWAYS: Final = _sql("gateways_live")

HANDSHAKE_ATTEMPTS: Final = 5


class NotReady(Exception):
    """The partition's epoch could not be agreed on: Redis or Postgres is away."""


class Partition:
    """One partition as this gateway knows it. `epoch` is None until a handshake has agreed on it."""

    __slots__ = ("clock_offset_ms", "epoch", "joined_epoch", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.epoch: int | None = None
        self.joined_epoch: int | None = None
        self.clock_offset_ms = 0

    def now_ms(self) -> int:
        """Redis's time as this process reckons it."""
        return int(time.monotonic() * 1000) + self.clock_offset_ms


class Partitions:
    """Every partition of the installation, and how this gateway agrees with the others on their epochs.

    `prepare(partition, epoch)` must bring this gateway's older debits to the ledger and hold its running requests again
    before it joins the epoch; it answers whether that is done.
    """

    def __init__(
        self,
        database: Database,
        link: Link,
        keyspace: Keyspace,
        gateway_id: str,
        prepare: Callable[[Partition, int], Awaitable[bool]],
    ) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._gateway_id = gateway_id
        self._prepare = prepare
        self._locks = [asyncio.Lock() for _ in range(keyspace.partitions)]
        self._joins: SingleFlight[bool] = SingleFlight()
        self._fence, self._join_script = Script("fence"), Script("join")
        self.all = [Partition(number) for number in range(keyspace.partitions)]
        self._breaks = 0

    def of(self, account_id: str) -> Partition:
        return self.all[self._keys.partition_of(account_id)]

    def forget(self) -> None:
        """The connection broke: every epoch must be agreed on again before anything is sent."""
        self._breaks += 1
        for partition in self.all:
            partition.epoch = None

    async def ensure(self, partition: Partition, stale: int | None = None) -> int:
        """The partition's epoch, agreed on now where it is unknown or still the `stale` one. Raises `NotReady`."""
        if partition.epoch is not None and partition.epoch != stale:
            return partition.epoch
        async with self._locks[partition.number]:
            if partition.epoch is None or partition.epoch == stale:
                try:
                    await self._handshake(partition)
                except (RedisError, DatabaseError) as error:
                    partition.epoch = None
                    raise NotReady(str(error)) from error
            if partition.epoch is None:
                raise NotReady("the epoch is moving")
            return partition.epoch

    async def _handshake(self, partition: Partition) -> None:
        number, meta_key = partition.number, self._keys.meta(partition.number)
        for _ in range(HANDSHAKE_ATTEMPTS):
            breaks = self._breaks
            await self._link.connect(meta_key)
            identity = await self._link.identity(meta_key)
            row = await self._database.row(READ_PARTITION, number)
            stored = row["epoch"] if row is not None else 0
            epoch, known = await self._link.command("HMGET", meta_key, "epoch", "identity")
            if epoch is not None and known.decode() == identity and int(epoch) >= stored:
                if await self._agree(partition, int(epoch), breaks):
                    return
                continue
            await self._move(partition, stored, identity)

    async def _agree(self, partition: Partition, epoch: int, breaks: int) -> bool:
        """Take an epoch that was read when `breaks` connections had broken; not if one has broken since: the server
        that answers now may be in another life, which nobody has fenced yet."""
        redis_ms = await self._link.time_ms(self._keys.meta(partition.number))
        if breaks != self._breaks:
            return False
        partition.clock_offset_ms = redis_ms - int(time.monotonic() * 1000)
        partition.epoch = epoch
        return True

    async def join(self, partition: Partition) -> bool:
        """Take part in the partition's epoch; whether it is open. Raises `NotReady`."""
        return await self._joins.run(partition.number, lambda: self._join(partition))

    async def _join(self, partition: Partition) -> bool:
        epoch = await self.ensure(partition)
        try:
            if partition.joined_epoch != epoch and not await self._prepare(partition, epoch):
                return False
            rows = await self._database.rows(LIVE_GATEWAYS)
            reply = await self._link.call(
                self._join_script,
                [self._keys.meta(partition.number), self._keys.joined(partition.number)],
                [epoch, self._gateway_id, *(row["id"] for row in rows)],
            )
        except (RedisError, DatabaseError) as error:
            raise NotReady(str(error)) from error
        if reply == -1:
            partition.epoch = None
            return False
        partition.joined_epoch = epoch
        return bool(reply == 1)

    async def renew(self, partition: Partition, lost: int | None = None) -> None:
        """Begin a new epoch although the server is the same: everything is loaded again. With `lost`, only where that
        is still the newest one: another gateway may have done it. Raises `NotReady`."""
        try:
            meta_key = self._keys.meta(partition.number)
            await self._link.connect(meta_key)
            identity = await self._link.identity(meta_key)
            row = await self._database.row(READ_PARTITION, partition.number)
            stored = row["epoch"] if row is not None else 0
            if lost is None or stored == lost:
                await self._move(partition, stored, identity)
        except (RedisError, DatabaseError) as error:
            raise NotReady(str(error)) from error
        partition.epoch = None

    async def _move(self, partition: Partition, stored: int, identity: str) -> None:
        number = partition.number
        moved = await self._database.row(MOVE_EPOCH, number, stored, identity)
        if moved is not None:
            logger.info("partition %d: epoch %d begins", number, moved["epoch"])
            keys = [self._keys.meta(number), self._keys.joined(number), self._keys.installed(number)]
            await self._link.call(self._fence, keys, [moved["epoch"], identity])

    async def is_current(self, partition: Partition) -> bool:
        """Whether the epoch in hand is still the server's, and open; refreshes the clock. Raises `RedisError`."""
        breaks = self._breaks
        epoch, open_ = await self._link.command("HMGET", self._keys.meta(partition.number), "epoch", "open")
        if epoch is None or partition.epoch is None or int(epoch) != partition.epoch:
            partition.epoch = None
            return False
        return await self._agree(partition, partition.epoch, breaks) and bool(open_ == b"1")
