"""Writes what this process has counted of refusals and of providers to Postgres, beside its requests.

The counts of `Metrics` only rise: what is new since the last round is added to what all processes have counted. Where
Postgres is away nothing is lost, but for when it was.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from billing.errors import StoreError
from billing.traffic.counts import Counted, Failure
from billing.work import Periodic

if TYPE_CHECKING:
    from collections import deque

    from billing.traffic.counts import Change
    from billing.traffic.store import Traffic
    from gateway.metrics.registry import Metrics

EVERY_S: Final = 10.0
# In one statement.
MOST_ROWS: Final = 1_000


class History:
    """Writes the counts of `metrics`, and `changes` of circuits, which it takes out."""

    def __init__(self, metrics: Metrics, traffic: Traffic, changes: deque[Change]) -> None:
        self._metrics, self._traffic, self._changes = metrics, traffic, changes
        self._written: dict[tuple[str, str, str], Counted] = {}
        self._failed_s: dict[str, float] = {}

    def work(self) -> Periodic:
        """Return what writes every few seconds."""
        return Periodic(name="history", every_s=EVERY_S, round=self.write, delayed=True, close=self._write_last)

    async def _write_last(self) -> None:
        with suppress(StoreError):
            await self.write()

    async def write(self) -> None:
        """Add what is new. Raises `DatabaseError`: what was not written comes with the next round."""
        current = {(each.what, each.name, each.detail): each for each in self._metrics.traffic()}
        for start in range(0, len(current), MOST_ROWS):
            part = dict(list(current.items())[start : start + MOST_ROWS])
            if new := [each for key, count in part.items() if (each := _new(count, self._written.get(key))).number]:
                await self._traffic.add(new, (), ())
            self._written |= part
        last = dict(self._metrics.last_failures)
        failures = [Failure(name, *at) for name, at in last.items() if self._failed_s.get(name) != at[0]]
        changes = list(self._changes)
        told = [each._replace(reason=last.get(each.provider, (0.0, ""))[1]) for each in changes]
        await self._traffic.add((), told, failures)
        self._failed_s |= {each.provider: each.at_s for each in failures}
        for _ in changes:
            self._changes.popleft()


def _new(count: Counted, written: Counted | None) -> Counted:
    """Return what a count has more than was written of it."""
    if written is None:
        return count
    buckets = None
    if count.buckets is not None and written.buckets is not None:
        buckets = tuple(now - was for now, was in zip(count.buckets, written.buckets, strict=True))
    return count._replace(number=count.number - written.number, buckets=buckets)
