"""Partitions: the life of the Redis server behind each, and the epoch that numbers it.

This file owns rules R1 and R6 of the protocol: a server whose identity is new or changed begins a new epoch in
Postgres, is fenced, and opens only when every gateway with a living lease has brought its older debits to the ledger
and holds its running requests again.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from billing.holds.connection import Life, Link, RedisError, RedisMoved, Script
from billing.holds.flight import SingleFlight
from billing.holds.keyspace import Keyspace
from billing.ledger.postgres import Database, DatabaseError, queries

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
READ_PARTITION: Final = _sql("partitions_read")
MOVE_EPOCH: Final = _sql("partitions_move_epoch")

HANDSHAKE_ATTEMPTS: Final = 5


class NotReady(Exception):
    """The partition's epoch could not be agreed on: Redis or Postgres is away."""


class Partition:
    """One partition as this gateway knows it.

    Its epoch is agreed on with one life of its server, and is None before, after that life, and once it was forgotten:
    a connection made anew never serves under an epoch that another one had agreed on.
    """

    __slots__ = ("_epoch", "clock_offset_ms", "joined_epoch", "life", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.life: Life | None = None
        self._epoch: int | None = None
        self.joined_epoch: int | None = None
        self.clock_offset_ms = 0

    @property
    def epoch(self) -> int | None:
        life = self.life
        return self._epoch if life is not None and life.stands else None

    def agree(self, life: Life, epoch: int) -> None:
        """The server is in this epoch, as it has said in this life."""
        self.life, self._epoch = life, epoch

    def forget(self) -> None:
        """The epoch must be agreed on again before anything is sent."""
        self._epoch = None

    def now_ms(self) -> int:
        """Redis's time as this process reckons it."""
        return int(time.monotonic() * 1000) + self.clock_offset_ms


class Partitions:
    """Every partition of the installation, and how this gateway agrees with the others on their epochs.

    `prepare(partition, epoch)` must bring this gateway's older debits to the ledger and hold its running requests again
    before it joins the epoch; it answers whether that is done. `living()` names the gateways that are waited for.
    """

    def __init__(
        self,
        database: Database,
        link: Link,
        keyspace: Keyspace,
        gateway_id: str,
        prepare: Callable[[Partition, int], Awaitable[bool]],
        living: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._gateway_id = gateway_id
        self._prepare = prepare
        self._living = living
        self._handshakes: SingleFlight[None] = SingleFlight()
        self._joins: SingleFlight[bool] = SingleFlight()
        self._fence, self._join_script = Script("fence"), Script("join")
        self.all = [Partition(number) for number in range(keyspace.partitions)]

    def of(self, account_id: str) -> Partition:
        return self.all[self._keys.partition_of(account_id)]

    async def ensure(self, partition: Partition, stale: int | None = None) -> int:
        """The partition's epoch, agreed on now where it is unknown or still the `stale` one. Raises `NotReady`."""
        epoch = partition.epoch
        if epoch is None or epoch == stale:
            try:
                await self._handshakes.run(partition.number, lambda: self._handshake(partition))
            except (RedisError, DatabaseError) as error:
                partition.forget()
                raise NotReady(str(error)) from error
            epoch = partition.epoch
        if epoch is None:
            raise NotReady("the epoch is moving")
        return epoch

    async def _handshake(self, partition: Partition) -> None:
        """Agree on the epoch. Where the server is not the one to ask, its slot may just be moving: asked again, it is
        looked for again, REFRESH_AT_MOST_EVERY_S apart. Raises `RedisError`, `DatabaseError`."""
        elsewhere: RedisMoved | None = None
        for _ in range(HANDSHAKE_ATTEMPTS):
            try:
                if await self._greet(partition):
                    return
            except RedisMoved as error:
                elsewhere = error
        if elsewhere is not None:
            raise elsewhere

    async def _greet(self, partition: Partition) -> bool:
        """One round of the handshake, all over one connection; whether the epoch is agreed on."""
        number, meta_key = partition.number, self._keys.meta(partition.number)
        life = await self._link.connect(meta_key)
        identity = await life.identity()
        row = await self._database.row(READ_PARTITION, number)
        stored = row["epoch"] if row is not None else 0
        epoch, known = await life.ask("HMGET", meta_key, "epoch", "identity")
        if epoch is not None and known.decode() == identity and int(epoch) >= stored:
            await _set_clock(partition, life)
            partition.agree(life, int(epoch))
            return True
        partition.forget()
        await self._move(partition, stored, identity)
        return False

    async def join(self, partition: Partition) -> bool:
        """Take part in the partition's epoch; whether it is open. Raises `NotReady`."""
        return await self._joins.run(partition.number, lambda: self._join(partition))

    async def _join(self, partition: Partition) -> bool:
        epoch = await self.ensure(partition)
        try:
            if partition.joined_epoch != epoch and not await self._prepare(partition, epoch):
                return False
            living = await self._living()
            reply = await self._link.call(
                self._join_script,
                [self._keys.meta(partition.number), self._keys.joined(partition.number)],
                [epoch, self._gateway_id, *living],
            )
        except (RedisError, DatabaseError) as error:
            raise NotReady(str(error)) from error
        if reply == -1:
            partition.forget()
            return False
        partition.joined_epoch = epoch
        return bool(reply == 1)

    async def renew(self, partition: Partition, lost: int | None = None) -> None:
        """Begin a new epoch although the server is the same: everything is loaded again. With `lost`, only where that
        is still the newest one: another gateway may have done it. Raises `NotReady`."""
        try:
            life = await self._link.connect(self._keys.meta(partition.number))
            identity = await life.identity()
            row = await self._database.row(READ_PARTITION, partition.number)
            stored = row["epoch"] if row is not None else 0
            if lost is None or stored == lost:
                await self._move(partition, stored, identity)
        except (RedisError, DatabaseError) as error:
            raise NotReady(str(error)) from error
        if lost is None or partition.epoch == lost:
            partition.forget()

    async def _move(self, partition: Partition, stored: int, identity: str) -> None:
        number = partition.number
        moved = await self._database.row(MOVE_EPOCH, number, stored, identity)
        if moved is not None:
            logger.info("partition %d: epoch %d begins", number, moved["epoch"])
            keys = [self._keys.meta(number), self._keys.joined(number), self._keys.installed(number)]
            await self._link.call(self._fence, keys, [moved["epoch"], identity])

    async def is_current(self, partition: Partition) -> bool:
        """Whether the epoch in hand is still the server's, and open; refreshes the clock. Raises `RedisError`."""
        life, epoch = partition.life, partition.epoch
        if life is None or epoch is None:
            return False
        known, open_ = await life.ask("HMGET", self._keys.meta(partition.number), "epoch", "open")
        if known is None or int(known) != epoch or await life.has_changed():
            partition.forget()
            return False
        await _set_clock(partition, life)
        return bool(open_ == b"1")


async def _set_clock(partition: Partition, life: Life) -> None:
    partition.clock_offset_ms = await life.time_ms() - int(time.monotonic() * 1000)
