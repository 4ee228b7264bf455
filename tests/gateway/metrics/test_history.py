"""What a process counts reaches Postgres once, also after Postgres was away."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from billing.database.connection import DatabaseUnavailable
from billing.traffic.counts import Change, Counted, Failure
from billing.traffic.store import Traffic
from gateway.metrics.history import History
from gateway.metrics.registry import Metrics


@dataclass
class Store:
    """Takes what is written, unless it is away."""

    away: bool = False
    counted: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    async def add(self, counted: Sequence[Counted], changes: Sequence[Change], failures: Sequence[Failure]) -> None:
        if self.away:
            raise DatabaseUnavailable("away")
        for each in counted:
            self.counted.setdefault((each.what, each.name, each.detail), []).append(each.number)
        self.changes += changes
        self.failures += failures


async def test_only_what_is_new_is_written_and_nothing_is_lost_while_postgres_is_away():
    metrics, store, changes = Metrics(), Store(), deque[Change]()
    history = History(metrics, cast("Traffic", store), changes)
    metrics.refusal("quota_exceeded")
    metrics.upstream_latency("openai", 0.2)
    await history.write()
    await history.write()
    store.away = True
    metrics.attempt_failed("openai", "503")
    changes.append(Change("openai", 0, 1.0, "open", ""))
    metrics.upstream_latency("openai", 900.0)
    with pytest.raises(DatabaseUnavailable):
        await history.write()
    store.away = False
    metrics.upstream_latency("openai", 0.2)
    await history.write()
    await history.write()
    assert store.counted == {
        ("refused", "quota_exceeded", ""): [1],
        ("head", "openai", ""): [1, 2],
        ("failed", "openai", "503"): [1],
    }
    assert [(each.target, each.reason) for each in store.changes] == [(0, "503")]
    assert [each.reason for each in store.failures] == ["503"]
    assert not changes


def test_times_are_counted_in_the_buckets_that_are_read():
    metrics = Metrics()
    for seconds in (0.05, 0.06, 10_000.0):
        metrics.time_to_first_byte("openai", seconds)
    (found,) = metrics.traffic()
    assert (found.what, found.number, found.buckets and (found.buckets[:2], found.buckets[-1])) == (
        "first_byte",
        3,
        ((1, 1), 1),
    )
