"""Whether this worker serves, and what an operator should look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from billing.collect.collector import Collector
    from billing.exports.worker import ExportWorker
    from billing.holds.engine import Engine
    from gateway.metrics.registry import Metrics

TROUBLES: Final = "troubles"


class Health:
    """Whether this worker serves, and how its stores are."""

    def __init__(self, engine: Engine, collector: Collector, metrics: Metrics) -> None:
        self._engine, self._collector, self._metrics = engine, collector, metrics
        self.ready = False
        self.exports: ExportWorker | None = None

    def troubles(self) -> list[str]:
        """Return what an operator should look at, a clause each."""
        found = []
        if any(partition.epoch is None for partition in self._engine.partitions.all):
            found.append("Redis is away or not agreed on")
        if self._engine.outbox.unavailable:
            found.append(f"{len(self._engine.outbox)} debits wait for Postgres")
        if locked := self._engine.locked_accounts():
            found.append(f"{len(locked)} accounts wait for their rows in Postgres, which another session has locked")
        if not self._engine.cache.subscribed:
            found.append("the subscription to changes is broken")
        found += [f"the {name} loop has failed and began anew" for name in self._engine.loops.troubled()]
        if self._collector.trouble:
            found.append(self._collector.trouble)
        if self.exports is not None:
            found += self.exports.troubles()
        return found

    def note(self) -> None:
        """Tell the other processes of this gateway what troubles this one."""
        self._metrics.notes[TROUBLES] = self.troubles()

    def everywhere(self) -> list[str]:
        """Return what an operator should look at in any process of this gateway, of this one as of now."""
        self.note()
        return self._metrics.told(TROUBLES)
