"""The hot path to Redis: admissions, settlements and voids of one turn of the event loop go out as one script call.

This file owns batching alone. An item says its Redis keys, packs itself, and is told its reply or a `RedisError`,
always and once; what a reply means is the item's business.
"""

import asyncio
from typing import Any, Protocol

from billing.holds.codec import BATCH
from billing.holds.connection import Link, RedisAway, RedisError, RedisTimeout, Script
from billing.holds.keyspace import Keyspace
from billing.holds.partitions import Partition


class StaleEpoch(RedisError):
    """The server is in another epoch: nothing was done."""


class Item(Protocol):
    """One admission, settlement or void. Positions are places in KEYS, from 1."""

    account_key: bytes
    key_key: bytes

    def pack(self, account_place: int, key_place: int) -> bytes: ...

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None: ...


class _Call:
    """One script call in flight: its items are told exactly once, by the reply or by the clock."""

    __slots__ = ("epoch", "items", "timer")

    def __init__(self, items: list[Item], epoch: int, timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.items: list[Item] | None = items
        self.epoch = epoch
        self.timer = loop.call_later(timeout_s, self.answered, RedisTimeout("Redis gave no answer in time"))

    def answered(self, reply: Any) -> None:
        items, self.items = self.items, None
        if items is None:
            return
        self.timer.cancel()
        if isinstance(reply, RedisError):
            for item in items:
                item.resolve(reply, self.epoch)
        elif not reply:
            stale = StaleEpoch("Redis is in another epoch")
            for item in items:
                item.resolve(stale, self.epoch)
        else:
            for item, answer in zip(items, reply, strict=True):
                item.resolve(answer, self.epoch)


class Batcher:
    """The queue of one partition. Bounded by what is admitted: every item belongs to a request that is being served."""

    def __init__(
        self,
        link: Link,
        keyspace: Keyspace,
        partition: Partition,
        *,
        script: Script,
        max_items: int,
        max_unsettled: int,
        timeout_s: float,
    ) -> None:
        self._link = link
        self._partition = partition
        self._script = script
        self._max_items = max_items
        self._max_unsettled = max_unsettled
        self._timeout_s = timeout_s
        self._meta, self._journal = keyspace.meta(partition.number), keyspace.journal(partition.number)
        self._queue: list[Item] = []
        self._loop = asyncio.get_running_loop()

    def submit(self, item: Item) -> None:
        """Send with whatever else this turn of the event loop brings."""
        if not self._queue:
            self._loop.call_soon(self._flush)
        self._queue.append(item)

    def _flush(self) -> None:
        queue, self._queue = self._queue, []
        for start in range(0, len(queue), self._max_items):
            self._send(queue[start : start + self._max_items])

    def _send(self, items: list[Item]) -> None:
        epoch = self._partition.epoch
        if epoch is None:
            for item in items:
                item.resolve(RedisAway("no epoch is agreed on"), -1)
            return
        keys = [self._meta, self._journal]
        places: dict[bytes, int] = {}
        arguments = [BATCH.pack(epoch, self._max_unsettled)]
        for item in items:
            account_place = places.get(item.account_key)
            if account_place is None:
                keys.append(item.account_key)
                account_place = places[item.account_key] = len(keys)
            key_place = places.get(item.key_key)
            if key_place is None:
                keys.append(item.key_key)
                key_place = places[item.key_key] = len(keys)
            arguments.append(item.pack(account_place, key_place))
        call = _Call(items, epoch, self._timeout_s, self._loop)
        self._link.send(self._script, keys, arguments, call.answered)
