"""What runs beside requests in a worker, and jobs: work that one gateway does for all, by a lease.

Beside requests: gauges for `/metrics`, and rounds that keep it and the database in order. Of each job it is kept what
the last run came to: `POST /v1/jobs/reconcile` and `/v1/jobs/collect-and-rate` run it now; `GET /v1/status` shows the
last run. All take the admin key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from msgspec import UNSET, structs

from billing import audit
from billing.api.requests import read_bounded
from billing.api.route import ACTOR
from billing.collect.collector import COLLECT
from billing.database.connection import DatabaseError
from billing.database.replica import CHECK_EVERY_S
from billing.errors import StoreError
from billing.identity.sessions import FORGET, FORGET_UNVERIFIED
from billing.ledger.retention import UsageRetention
from billing.ledger.writer import count_dead_letters
from billing.owned import Retention
from billing.pages import new_id
from billing.schemas.system import CollectBody, JobShape, ReconcileBody, ReportShape, with_run
from billing.times import TimeError, parse_rfc3339, rfc3339
from billing.traffic.store import FORGET_CHANGES, FORGET_TRAFFIC
from billing.work import Lease, Periodic
from gateway.metrics.registry import FLUSH_INTERVAL_S
from gateway.runtime.exports import start_exports
from gateway.runtime.metering import start_collecting
from gateway.runtime.outgoing import start_mailer, start_notices
from gateway.runtime.payments import start_payments
from gateway.server import refusals
from gateway.server.refusals import Refuse

if TYPE_CHECKING:
    from aiohttp import web

    from billing.collect.collector import Run
    from billing.exports.worker import ExportWorker
    from billing.holds.reconcile import Report
    from gateway.endpoints.health import Health
    from gateway.metrics.registry import Metrics
    from gateway.proxy.records import RequestLog
    from gateway.runtime.runtime import Runtime
    from gateway.server.bodies import Bodies

logger = logging.getLogger(__name__)

HOUSEKEEPING_S: Final = 10.0
MONTHS_EVERY_S: Final = 6 * 3600.0
MONTHS_AHEAD: Final = 3


@dataclass(slots=True)
class SetAsideCount:
    """How many debits lie set aside, as it was counted last."""

    count: int = 0


def add_gauges(
    metrics: Metrics, runtime: Runtime, bodies: Bodies, log: RequestLog | None, aside: SetAsideCount
) -> None:
    """Have `/metrics` show what the parts of this process are at, as of the moment of reading."""
    engine, follower = runtime.engine, runtime.follower
    metrics.gauge("debits_waiting", "Debits that Redis has settled and Postgres has not.", lambda: len(engine.outbox))
    metrics.gauge(
        "debits_hindered", "1 while Postgres is there and takes no debits.", lambda: engine.outbox.hindered, "max"
    )
    metrics.gauge(
        "accounts_locked",
        "Accounts whose debits wait because another session has their rows in Postgres locked.",
        lambda: len(engine.locked_accounts()),
        "max",
    )
    metrics.gauge(
        "plans_revision", "Revision of the plans that this gateway applies.", lambda: follower.revision, "max"
    )
    metrics.gauge("debits_set_aside", "Debits that the ledger could not take.", lambda: aside.count, "max")
    metrics.gauge("holds_live", "Requests that are being served.", lambda: len(engine.holds.live))
    metrics.gauge("requests_waiting", "Requests that wait for running ones to end.", lambda: len(engine.holds.queues))
    metrics.gauge(
        "store_clock_difference_seconds",
        "What the clocks of Redis and Postgres differ by.",
        lambda: round(engine.partitions.clock_difference_s, 2),  # which stands: the snapshot stays as it was
        "max",
    )
    metrics.gauge("body_bytes", "Bytes of request bodies in memory.", lambda: bodies.size_bytes)
    metrics.gauge("principals_cached", "Keys in memory.", lambda: len(engine.cache))
    metrics.gauge("refusals_dropped", "Refusals that were not kept to be looked up.", lambda: runtime.refused.dropped)
    metrics.gauge(
        "replica_lag_seconds",
        "How far the replica that reports are read from is behind; 0 without one.",
        lambda: 0.0 if runtime.replica is None else runtime.replica.lag_s,
        "max",
    )
    metrics.gauge(
        "request_log_dropped",
        "Lines that the request log has not taken.",
        lambda: 0 if log is None else log.dropped,
    )


def house_work(runtime: Runtime, metrics: Metrics, health: Health, aside: SetAsideCount) -> tuple[Periodic, ...]:
    """Return what every worker does for itself: it notes when keys were last used, creates the months that usage is
    about to fall into, counts what is set aside, and writes its metrics for the process that shows them."""

    async def tidy() -> None:
        used, runtime.engine.cache.used = runtime.engine.cache.used, {}
        if used:
            now_s = time.time()
            await runtime.api_keys.touch_last_used([(key_id, now_s) for key_id in used])
        aside.count = await count_dead_letters(runtime.database)

    async def create_months() -> None:
        await runtime.database.execute("SELECT create_usage_months(current_date, $1)", MONTHS_AHEAD)

    async def flush() -> None:
        health.note()
        with suppress(OSError):
            metrics.flush()

    replica = runtime.replica
    return (
        *(() if replica is None else (Periodic(name="replica", every_s=CHECK_EVERY_S, round=replica.check),)),
        Periodic(name="housekeeping", every_s=HOUSEKEEPING_S, round=tidy),
        Periodic(name="months", every_s=MONTHS_EVERY_S, round=create_months),
        Periodic(name="metrics", every_s=FLUSH_INTERVAL_S, round=flush, delayed=True),
    )


def start_shared_work(runtime: Runtime, metrics: Metrics, jobs: Jobs) -> ExportWorker | None:
    """Start what one gateway of all does for all, each by a lease; return the exports, where there are any. Not for the
    process of pages, which has the CPU only where no worker wants it: what it had the lease of, everybody waited for.
    """
    database, defaults = runtime.database, runtime.settings.defaults
    runtime.start(jobs.work(defaults.process.reconcile_interval_s))
    kept = defaults.retention
    after_days = (
        (FORGET_UNVERIFIED, kept.unverified_retention_days),
        (FORGET_TRAFFIC, kept.traffic_retention_days),
        (FORGET_CHANGES, kept.traffic_retention_days),
    )
    runtime.start(Retention(database, kept, new_id(), after_days, FORGET).work())
    if kept.usage_retention_months is not None:
        retention = UsageRetention(database, kept.usage_retention_months, new_id(), time.time)
        told = "Months of usage events that are old enough to be dropped and stay: their rollups are not those of them."
        metrics.gauge("usage_months_kept", told, lambda: retention.kept, "max")
        runtime.start(retention.work())
    start_mailer(runtime, metrics)
    start_payments(runtime, metrics)
    start_collecting(runtime, metrics)
    start_notices(runtime, metrics)
    return start_exports(runtime, metrics)


RECONCILE: Final = "reconcile"
FAILED: Final = (StoreError, TimeoutError)
# Differences that one process tells the others of.
MOST_TOLD: Final = 1_000
B = TypeVar("B", CollectBody, ReconcileBody)


class Jobs:
    """Runs jobs and remembers their last results."""

    def __init__(self, runtime: Runtime, metrics: Metrics, owner: str) -> None:
        """`owner` names this process in leases."""
        self._engine, self._database, self._collector = runtime.engine, runtime.database, runtime.collector
        self._owner, self._metrics = owner, metrics
        self._max_body_bytes = runtime.services.max_body_bytes
        self._request_timeout_s = runtime.services.request_timeout_s
        self._running = asyncio.Lock()
        self._last = JobShape()
        self._drifts = 0
        metrics.gauge("reconcile_drifts", "Differences that the last reconciling found.", lambda: self._drifts, "max")

    def work(self, interval_s: float) -> Periodic:
        """Return what reconciles again and again, in one gateway of all."""
        lease = Lease(self._database, RECONCILE, self._owner)
        return Periodic(name=RECONCILE, every_s=interval_s, round=self._reconcile_in_turn, lease=lease, delayed=True)

    async def _reconcile_in_turn(self) -> None:
        try:
            await self.reconcile()
        except FAILED as error:
            logger.info("reconcile: %s", error)

    async def reconcile(self, *, fix: bool = False) -> Report:
        """Compare Redis with the ledger; with `fix` begin a new epoch, whether or not they differ.

        Raises `StoreError`, `TimeoutError`.
        """
        async with self._running:
            started = datetime.now(UTC)
            begun = JobShape(job=RECONCILE, status="running", started_at=_shown(started), error="")
            self._tell(begun)
            try:
                report = await self._engine.reconcile_once(fix=fix)
            except FAILED as error:
                finished_at = _shown(datetime.now(UTC))
                self._tell(structs.replace(begun, status="failed", error=str(error), finished_at=finished_at))
                raise
            self._drifts = len(report.drifts)
            found, finished_at = structs.asdict(ReportShape.of_report(report)), _shown(datetime.now(UTC))
            self._tell(structs.replace(begun, status="ok", finished_at=finished_at, **found))
            return report

    def _tell(self, job: JobShape) -> None:
        """Keep the last run of reconciling, and tell the other processes, of the differences some."""
        self._last = job
        told = job if job.drifts is UNSET else structs.replace(job, drifts=job.drifts[:MOST_TOLD])
        self._metrics.notes[RECONCILE] = [msgspec.json.encode(told).decode()]

    async def run_reconcile(self, request: web.Request) -> JobShape:
        """Compare Redis with the ledger now; with `fix` everything is loaded from the ledger anew. Where there are
        exporters, also collect from them."""
        asked = await self._body(request, ReconcileBody, '{"fix": true}')
        if asked.fix:
            await self._note(request, RECONCILE, {"fix": True})
        try:
            await self.reconcile(fix=asked.fix)
        except FAILED as error:
            raise Refuse(refusals.unavailable()) from error
        if self._collector.sources:
            self._last = with_run(self._last, await self._collected(RECONCILE))
        return self._last

    async def run_collect(self, request: web.Request) -> JobShape:
        """Collect from all exporters and charge what has grown, now; with `since` from that time on, for snapshots that
        came late."""
        asked = await self._body(request, CollectBody, '{"since": "2026-01-31T00:00:00Z"}')
        try:
            since = None if asked.since is None else parse_rfc3339(asked.since)
        except TimeError as error:
            raise Refuse(refusals.bad_request(str(error), "since")) from error
        await self._note(request, COLLECT, {"since": asked.since})
        self._last = with_run(JobShape(), await self._collected(COLLECT, since))
        return self._last

    async def _note(self, request: web.Request, job: str, asked: dict[str, object]) -> None:
        """Note in the audit log who has a job run that changes something."""
        async with self._database.transaction() as connection:
            await audit.record(connection, request[ACTOR], "job.run", job, None, asked)

    async def _collected(self, job: str, since: datetime | None = None) -> Run:
        run = await self._collector.run(job, since)
        if run.status == "failed":
            self._last = with_run(JobShape(), run)
            raise Refuse(refusals.unavailable(f"Nothing could be collected; try again once that is fixed. {run.error}"))
        return run

    async def _body(self, request: web.Request, shape: type[B], example: str) -> B:
        """Return what is asked for; an empty body asks for nothing special."""
        body = await read_bounded(request, self._max_body_bytes, self._request_timeout_s)
        try:
            return msgspec.json.decode(body or b"{}", type=shape)
        except msgspec.DecodeError as error:
            raise Refuse(refusals.bad_request(f"The body is empty, or {example}.")) from error

    async def get_job_status(self, request: web.Request) -> JobShape:
        """Return the last run of a job, in any process of this gateway."""
        return await self.last()

    async def last(self) -> JobShape:
        """Return the last run of a job, in any process of this gateway."""
        with suppress(DatabaseError):
            await self._collector.refresh()
        told = [msgspec.json.decode(each, type=JobShape) for each in self._metrics.told(RECONCILE)]
        last = max((self._last, *told), key=_started)
        run = self._collector.last
        return last if run is None or rfc3339(run.started_at) <= _started(last) else with_run(JobShape(), run)


def _started(job: JobShape) -> str:
    return str(job.started_at or "")


def _shown(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
