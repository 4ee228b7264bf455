"""The holds of this process, with the queues by which they reach Redis and the tasks that must end before it does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from billing.holds.redis.batcher import Batcher, Item
from billing.holds.redis.connection import Script

if TYPE_CHECKING:
    from billing.holds.hold import Hold
    from billing.holds.partition import Partition
    from billing.holds.partitions import Partitions
    from billing.holds.redis.state import Keyspace
    from billing.holds.service import HoldSettings


class RunningHolds:
    """`live` are the holds by request id, `batchers` the partitions' queues."""

    __slots__ = ("batchers", "live", "tasks")

    def __init__(self, keyspace: Keyspace, partitions: Partitions, settings: HoldSettings) -> None:
        script = Script("hot")
        self.live: dict[str, Hold] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.batchers = [
            Batcher(
                keyspace,
                partition,
                script=script,
                max_items=settings.batch_items,
                max_unsettled=settings.max_unsettled,
                timeout_s=min(settings.redis_timeout_s, settings.settle_timeout_s),
                elastic_millionths=settings.elastic_millionths,
                elastic_output_tokens=settings.elastic_output_tokens,
            )
            for partition in partitions.all
        ]

    def submit(self, partition: Partition, item: Item) -> None:
        """Send an admission, settlement or void with whatever else this turn of the event loop brings."""
        self.batchers[partition.number].submit(item)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what must finish even if whoever began it is cancelled; `Holds.drain` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
