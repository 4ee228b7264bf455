"""Whether this worker serves, and what an operator should look at: `/healthz`, the console and `doctor` say it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from billing.backlogs import Backlogs, read_backlogs
from billing.schemas.system import TroubleShape
from billing.work import Periodic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing.collect.collector import Collector
    from billing.database.connection import Database
    from billing.exports.worker import ExportWorker
    from billing.holds.engine import Engine
    from billing.traffic.counts import ProviderTraffic
    from billing.traffic.store import Traffic
    from gateway.body_logs.writer import BodyWriter
    from gateway.metrics.registry import Metrics
    from gateway.proxy.target_health import HealthBoard

TROUBLES: Final = "troubles"
LOOK_EVERY_S: Final = 10.0
# A provider fails where of the last attempts so many, and so large a share of them, have failed.
FAILING: Final = timedelta(minutes=10)
LEAST_FAILURES: Final = 5
LEAST_HUNDREDTHS: Final = 20_00
# As long what other processes of this gateway have said is not read again.
TOLD_S: Final = 1.0


class Health:
    """Whether this worker serves, how its stores and providers are, and what waits for too long in Postgres."""

    def __init__(
        self,
        engine: Engine,
        collector: Collector,
        metrics: Metrics,
        board: HealthBoard,
        bodies: BodyWriter | None = None,
    ) -> None:
        self._engine, self._collector, self._metrics, self._board = engine, collector, metrics, board
        self.ready = False
        self.exports: ExportWorker | None = None
        self._bodies = bodies
        self._backlogs = Backlogs()
        self._failing: list[TroubleShape] = []
        self._told: list[TroubleShape] = []
        self._told_until_s = 0.0

    def work(self, database: Database, traffic: Traffic) -> Periodic:
        """Return what looks at Postgres every few seconds: what waits there, and how providers answer all gateways."""

        async def look() -> None:
            self._backlogs = await read_backlogs(database)
            now = datetime.now(UTC)
            self._failing = failing(await traffic.providers(now - FAILING, now + FAILING))

        return Periodic(name="health", every_s=LOOK_EVERY_S, round=look)

    def troubles(self) -> list[TroubleShape]:
        """Return what an operator should look at, as far as this process knows."""
        engine, found = self._engine, []
        if any(partition.epoch is None for partition in engine.partitions.all):
            found.append(_trouble("redis", "Redis is away or not agreed on"))
        if engine.outbox.unavailable:
            found.append(_trouble("postgres", f"{len(engine.outbox)} debits wait for Postgres"))
        if locked := engine.locked_accounts():
            said = f"{len(locked)} accounts wait for their rows in Postgres, which another session has locked"
            found.append(_trouble("accounts", said))
        if not engine.cache.subscribed:
            found.append(_trouble("changes", "the subscription to changes is broken"))
        for name in engine.loops.troubled():
            found.append(_trouble(f"loop:{name}", f"the {name} loop failed and was restarted"))
        if self._collector.trouble:
            found.append(_trouble("collect", self._collector.trouble))
        if self.exports is not None:
            found += [_trouble(f"export:{said}", said) for said in self.exports.troubles()]
        if self._bodies is not None and self._bodies.trouble is not None:
            found.append(_trouble("body_logs", self._bodies.trouble))
        found += [_trouble(about, said) for about, said in self._backlogs.troubles()]
        return [*found, *self._failing, *circuits(self._board.opened())]

    def note(self) -> None:
        """Tell the other processes of this gateway what troubles this one."""
        self._metrics.notes[TROUBLES] = [msgspec.json.encode(each).decode() for each in self.troubles()]

    def everywhere(self) -> list[TroubleShape]:
        """Return what an operator should look at in any process of this gateway: of this one as of now, of the others
        as they said a second or two ago. What several say of one thing is said once."""
        now_s = time.monotonic()
        if now_s >= self._told_until_s:
            told = self._metrics.told(TROUBLES, own=False)
            self._told = [msgspec.json.decode(each, type=TroubleShape) for each in told]
            self._told_until_s = now_s + TOLD_S
        return list({each.about: each for each in [*self._told, *self.troubles()]}.values())


def _trouble(about: str, message: str) -> TroubleShape:
    return TroubleShape(about=about, message=message)


def failing(traffic: Mapping[str, ProviderTraffic]) -> list[TroubleShape]:
    """Return which providers fail, by how they have answered in the last minutes."""
    found = []
    for name, seen in sorted(traffic.items()):
        if seen.failures >= LEAST_FAILURES and seen.error_hundredths >= LEAST_HUNDREDTHS:
            reasons = ", ".join(sorted(seen.failed, key=seen.failed.__getitem__, reverse=True))
            said = f"{seen.failures} of {seen.attempts} attempts in {FAILING.seconds // 60} minutes ({reasons})"
            found.append(_trouble(f"provider:{name}", f"provider {name} fails: {said}"))
    return found


def circuits(opened: Mapping[str, float]) -> list[TroubleShape]:
    """Return which targets are left alone: by names such as `openai/0`, the seconds until each is free."""
    found = []
    for name, wait_s in sorted(opened.items()):
        provider, _, number = name.rpartition("/")
        what = f"the circuit of provider {provider} (target {number})"
        said = f"is open for another {max(1, round(wait_s))} s" if wait_s > 0 else "is open until an attempt succeeds"
        found.append(_trouble(f"circuit:{name}", f"{what} {said}"))
    return found
