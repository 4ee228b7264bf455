"""Jobs: work that one gateway does for all, by a lease, and what the last run of each came to.

`POST /v1/jobs/reconcile` runs it now; `GET /v1/status` shows the last run. Both take the admin key.
"""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiohttp import web

from billing.api import Services
from billing.api.auth import ADMIN_HEADER, is_admin
from billing.api.requests import read_bounded
from billing.attempts import Attempts
from billing.database.connection import Database, queries
from billing.errors import StoreError
from billing.holds.engine import Engine
from billing.holds.reconcile import Report
from gateway.auth import attempts_refused
from gateway.metrics.registry import Metrics
from gateway.proxy.handler import Proxy
from gateway.server import refusals
from gateway.server.refusals import Refuse

logger = logging.getLogger(__name__)

TAKE_LEASE: Final = queries("billing.ledger")("jobs_take")
RECONCILE: Final = "reconcile"
FAILED: Final = (StoreError, TimeoutError)


class Jobs:
    """Runs jobs and remembers their last results."""

    def __init__(
        self,
        engine: Engine,
        database: Database,
        proxy: Proxy,
        metrics: Metrics,
        admin_api_key: str,
        attempts: Attempts,
        owner: str,
        bounds: Services,
    ) -> None:
        """`bounds` are those of the billing API: the size of a body and the time to send it."""
        self._engine = engine
        self._database = database
        self._proxy = proxy
        self._admin_api_key = admin_api_key
        self._attempts = attempts
        self._owner = owner
        self._max_body_bytes = bounds.max_body_bytes
        self._request_timeout_s = bounds.request_timeout_s
        self._running = asyncio.Lock()
        self._last: dict[str, Any] = {"job": None, "status": "never run"}
        self._drifts = 0
        metrics.gauge("reconcile_drifts", "Differences that the last reconciling found.", lambda: self._drifts, "max")

    async def reconcile_for_ever(self, interval_s: float) -> None:
        """Reconcile every `interval_s`, in one gateway of all."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                if await self._database.row(TAKE_LEASE, RECONCILE, self._owner, interval_s * 0.9) is not None:
                    await self.reconcile()
            except FAILED as error:
                logger.info("reconcile: %s", error)

    async def reconcile(self, *, fix: bool = False) -> Report:
        """Compare Redis with the ledger; with `fix` begin a new epoch, whether or not they differ.

        Raises `StoreError`, `TimeoutError`.
        """
        async with self._running:
            started = datetime.now(UTC)
            self._last = {"job": RECONCILE, "status": "running", "started_at": _shown(started), "error": ""}
            try:
                report = await reconcile_once(self._engine, fix=fix)
            except FAILED as error:
                self._last |= {"status": "failed", "error": str(error), "finished_at": _shown(datetime.now(UTC))}
                raise
            self._drifts = len(report.drifts)
            self._last |= {"status": "ok", "finished_at": _shown(datetime.now(UTC)), **report_shape(report)}
            return report

    async def post_reconcile(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/jobs/reconcile, with `{"fix": true}` to mend."""
        await self._check_admin(request)
        body = await read_bounded(request, self._max_body_bytes, self._request_timeout_s)
        try:
            asked = msgspec.json.decode(body, type=dict[str, bool]) if body else {}
        except msgspec.DecodeError as error:
            raise Refuse(refusals.bad_request('The body is empty, or {"fix": true}.')) from error
        try:
            await self.reconcile(fix=asked.get("fix", False))
        except FAILED as error:
            raise Refuse(refusals.unavailable()) from error
        return _json(self._last)

    async def status(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/status: the last job of this worker."""
        await self._check_admin(request)
        return _json(self._last)

    async def _check_admin(self, request: web.Request) -> None:
        given = request.headers.get(ADMIN_HEADER, "")
        with attempts_refused():
            if not await is_admin(request, given, self._admin_api_key, self._attempts):
                raise Refuse(refusals.invalid_admin_key())


async def reconcile_once(engine: Engine, *, fix: bool) -> Report:
    """Write what was left in the journals, then compare; with `fix` begin a new epoch then, also where there are no
    differences or they can't be looked for: what is wrong may be that Redis has not got what it is compared in.

    Raises `StoreError`, `TimeoutError`.
    """
    try:
        for partition in engine.partitions.all:
            await engine.partitions.ensure(partition)
            await engine.recovery.sweep(partition, others=False)
        return await engine.reconciler.run()
    finally:
        if fix:
            await engine.reconciler.fix()


def report_shape(report: Report) -> dict[str, object]:
    """A report as JSON."""
    drifts = [
        {"account_id": drift.account_id, "what": drift.what, "redis": drift.redis, "ledger": drift.ledger}
        for drift in report.drifts
    ]
    return {"accounts": report.accounts, "busy": report.busy, "drifts": drifts}


def _shown(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _json(said: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(said), content_type="application/json")
