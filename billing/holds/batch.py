"""The hot path to Redis: admissions, settlements and voids of one turn of the event loop go out as one script call.

Where requests are few they come one by one, and waiting for the turn's end would only cost another turn: an item goes
out at once when the last one had no company and nothing is in flight.

An item names its Redis keys, packs itself, and gets its reply or a `RedisError`, always and once; what a reply means is
the item's business. One that fails to act on its reply gets a `RedisError` after it, and the others get theirs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from billing.holds.redis.connection import RedisAway, RedisError, RedisTimeout, Script
from billing.holds.redis.layout import BATCH

if TYPE_CHECKING:
    from billing.holds.epochs import Partition, Partitions
    from billing.holds.model import Hold, HoldSettings

logger = logging.getLogger(__name__)


class StaleEpoch(RedisError):
    """The server is in another epoch: nothing was done."""


class Item(Protocol):
    """One admission, settlement or void. `key_key` differs from `account_key`; `user_key` is None where it counts for
    no user. Positions are positions in KEYS, from 1."""

    account_key: bytes
    key_key: bytes
    user_key: bytes | None

    def pack(self, account_position: int, key_position: int, user_position: int = 0) -> bytes: ...

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None: ...


class _Call:
    """One script call in flight: its items are resolved exactly once, by the reply or by the clock."""

    __slots__ = ("deadline", "epoch", "items")

    def __init__(self, items: list[Item], epoch: int, deadline: float) -> None:
        self.items: list[Item] | None = items
        self.epoch = epoch
        self.deadline = deadline

    def answered(self, reply: Any) -> None:
        items, self.items = self.items, None
        if items is None:
            return
        if isinstance(reply, RedisError):
            _resolve_all(items, reply, self.epoch)
        elif not reply:
            _resolve_all(items, StaleEpoch("Redis is in another epoch"), self.epoch)
        else:
            for item, answer in zip(items, reply, strict=True):
                try:
                    item.resolve(answer, self.epoch)
                except Exception:  # whatever it was: the others' answers do not depend on it
                    _not_acted_on(item, self.epoch)


def _resolve_all(items: list[Item], error: RedisError, epoch: int) -> None:
    for item in items:
        try:
            item.resolve(error, epoch)
        except Exception:  # any exception: the other callers must get theirs
            _not_acted_on(item, epoch)


def _not_acted_on(item: Item, epoch: int) -> None:
    """Log the exception that is being handled, and end the item as one whose fate is not known."""
    logger.exception("what Redis answered could not be acted on")
    try:
        item.resolve(RedisError("what Redis answered could not be acted on"), epoch)
    except Exception:  # any exception: the other callers must get theirs
        logger.exception("nor could it act on that error")


class _Clock:
    """Ends calls that Redis did not answer in time. All have the same time, so they end in the order in which they are
    made, and one timer is enough for all: setting one for every call costs as much as packing it."""

    __slots__ = ("_calls", "_loop", "_timeout_s", "_timer")

    def __init__(self, timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._timeout_s = timeout_s
        self._loop = loop
        self._calls: deque[_Call] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, items: list[Item], epoch: int) -> _Call:
        """Return a call that is made now."""
        calls = self._calls
        while calls and calls[0].items is None:
            calls.popleft()
        call = _Call(items, epoch, self._loop.time() + self._timeout_s)
        calls.append(call)
        if self._timer is None:
            self._timer = self._loop.call_at(call.deadline, self._expire)
        return call

    @property
    def idle(self) -> bool:
        """Return whether every call is over: they end in order."""
        return not self._calls or self._calls[-1].items is None

    def _expire(self) -> None:
        calls, now = self._calls, self._loop.time()
        late: list[_Call] = []
        while calls and (calls[0].items is None or calls[0].deadline <= now):
            late.append(calls.popleft())
        self._timer = self._loop.call_at(calls[0].deadline, self._expire) if calls else None
        for call in late:
            call.answered(RedisTimeout("Redis gave no answer in time"))


class Batcher:
    """The queue of one partition. Bounded by what is admitted: every item belongs to a request that is being served."""

    def __init__(self, partition: Partition, script: Script, settings: HoldSettings) -> None:
        self._partition = partition
        self._script = script
        self._max_items = settings.batch_items
        self._bounds = settings.max_unsettled, settings.elastic_millionths, settings.elastic_output_tokens
        self._meta, self._journal = partition.meta, partition.journal
        self._queue: list[Item] = []
        self._loop = asyncio.get_running_loop()
        self._clock = _Clock(min(settings.redis_timeout_s, settings.settle_timeout_s), self._loop)
        self._alone = False

    def submit(self, item: Item) -> bool:
        """Send with whatever else this turn of the event loop brings, or at once where that is nothing; return whether
        it is out."""
        if not self._queue:
            if self._alone and self._clock.idle:
                self._send([item])
                return True
            self._loop.call_soon(self._flush)
        self._queue.append(item)
        return False

    def _flush(self) -> None:
        queue, self._queue = self._queue, []
        self._alone = len(queue) == 1
        for start in range(0, len(queue), self._max_items):
            self._send(queue[start : start + self._max_items])

    def _send(self, items: list[Item]) -> None:
        epoch, session = self._partition.epoch, self._partition.session
        if epoch is None or session is None:
            _resolve_all(items, RedisAway("no epoch is agreed on"), -1)
            return
        keys = [self._meta, self._journal]
        arguments = [BATCH.pack(epoch, *self._bounds)]
        if len(items) == 1:
            (item,) = items
            keys += (item.account_key, item.key_key)
            if item.user_key is None:
                arguments.append(item.pack(3, 4))
            else:
                keys.append(item.user_key)
                arguments.append(item.pack(3, 4, 5))
        else:
            self._pack(items, keys, arguments)
        session.call(self._script, keys, arguments, self._clock.begin(items, epoch).answered)

    @staticmethod
    def _pack(items: list[Item], keys: list[bytes], arguments: list[bytes]) -> None:
        """Add the items and their keys; those of one account, key or user share its position."""
        positions: dict[bytes, int] = {}
        for item in items:
            account_position = positions.get(item.account_key)
            if account_position is None:
                keys.append(item.account_key)
                account_position = positions[item.account_key] = len(keys)
            key_position = positions.get(item.key_key)
            if key_position is None:
                keys.append(item.key_key)
                key_position = positions[item.key_key] = len(keys)
            if item.user_key is None:
                arguments.append(item.pack(account_position, key_position))
                continue
            user_position = positions.get(item.user_key)
            if user_position is None:
                keys.append(item.user_key)
                user_position = positions[item.user_key] = len(keys)
            arguments.append(item.pack(account_position, key_position, user_position))


class RunningHolds:
    """The holds of this process, with the queues by which they reach Redis and the tasks that must end before it does:
    `live` are the holds by request id, `batchers` the partitions' queues."""

    __slots__ = ("batchers", "live", "loop", "tasks")

    def __init__(self, partitions: Partitions, settings: HoldSettings) -> None:
        script = Script("hot")
        self.loop = asyncio.get_running_loop()
        self.live: dict[str, Hold] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.batchers = [Batcher(each, script, settings) for each in partitions.all]

    def submit(self, partition: Partition, item: Item) -> None:
        """Send an admission, settlement or void with whatever else this turn of the event loop brings."""
        self.batchers[partition.number].submit(item)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what must finish even if whoever began it is cancelled; `Holds.drain` waits for it."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
