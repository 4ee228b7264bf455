"""The one wiring: from settings to stores, services, engine, routes. Nothing else builds what it uses.

`gateway.runtime` makes everything that talks to the stores; `serving` makes the application that a worker
serves, with the engine running behind it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from billing.api import setup
from billing.database.connection import DatabaseError
from billing.ledger.catalogue import sync_prices
from billing.ledger.set_aside import count_set_aside
from gateway.config.settings import Limits, Settings
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.dialects.structure import StructureBounds
from gateway.endpoints.jobs import Jobs
from gateway.endpoints.reads import Health, Reads, add_routes
from gateway.metrics.registry import Metrics
from gateway.proxy.estimate import EstimateRules
from gateway.proxy.forward import Forwarder, ForwardRules
from gateway.proxy.handler import Proxy, ProxyRules
from gateway.proxy.missing_usage import MissingUsage
from gateway.proxy.records import Records
from gateway.proxy.remainder import DrainRules, Remainder
from gateway.proxy.request_log import RequestLog
from gateway.proxy.routing import Router
from gateway.proxy.settlement import Settlements
from gateway.runtime import Runtime, lookup_wait_s, new_id
from gateway.server.bodies import Bodies, BodyRules
from gateway.server.cors import Cors, answering
from gateway.server.edge import EdgeRunner
from gateway.server.files import connections_within
from gateway.server.guard import EdgeRules
from gateway.server.metering_headers import REQUEST_ID
from gateway.server.refusals import Links
from gateway.tokens import Tokenizer
from gateway.upstream.base import Transport
from gateway.upstream.local.provider import LocalTransport
from gateway.upstream.transport import HttpTransport

logger = logging.getLogger(__name__)

HOUSEKEEPING_S: Final = 10.0
MONTHS_EVERY_S: Final = 6 * 3600.0
MONTHS_AHEAD: Final = 3
METRICS_FLUSH_S: Final = 1.0
DAY_S: Final = 86_400


def make_transports(settings: Settings, tokenizer: Tokenizer) -> dict[str, Transport]:
    """A transport for each provider that is on and of a kind that this version serves."""
    defaults = settings.defaults
    transports: dict[str, Transport] = {}
    for provider in settings.providers.values():
        if not provider.enabled:
            continue
        if provider.kind == "local":
            transports[provider.name] = LocalTransport(
                tokenizer,
                delay_ms=provider.delay_ms,
                chunk_delay_ms=provider.chunk_delay_ms,
                timeout_s=defaults.upstream_timeout_s,
            )
        elif provider.kind == "openai":
            transports[provider.name] = HttpTransport(
                connections=defaults.upstream_connections,
                connect_timeout_s=defaults.connect_timeout_s,
                timeout_s=defaults.upstream_timeout_s,
                account_share=defaults.upstream_account_share,
                waiting=defaults.upstream_waiting,
            )
    return transports


def structure_bounds(defaults: Limits) -> StructureBounds:
    """How much structure a request may have, from the configuration's `max_request_*`."""
    return StructureBounds(
        depth=defaults.max_request_depth,
        fields=defaults.max_request_fields,
        messages=defaults.max_request_messages,
        parts=defaults.max_request_parts,
        tools=defaults.max_request_tools,
        members=defaults.max_request_members,
        values=defaults.max_request_values,
    )


def body_rules(settings: Settings) -> BodyRules:
    """The bounds of bodies in memory. One body alone always fits."""
    defaults, largest = settings.defaults, settings.proxy_max_body_bytes
    return BodyRules(
        large_bytes=defaults.large_body_bytes,
        worker_bytes=max(defaults.body_bytes_in_flight, largest),
        account_bytes=max(defaults.account_body_bytes_in_flight, largest),
    )


def edge_rules(defaults: Limits, cors: Cors | None) -> EdgeRules:
    """What the edge follows of the configuration."""
    return EdgeRules(
        cors=cors,
        linger_s=defaults.linger_s,
        linger_bytes=defaults.linger_bytes,
        head_timeout_s=defaults.head_timeout_s,
        head_bytes=defaults.head_bytes_in_flight,
        max_connections=connections_within(defaults.max_connections),
        body_bytes_per_s=defaults.body_bytes_per_s,
        write_timeout_s=defaults.client_write_timeout_s,
    )


@dataclass(frozen=True, slots=True)
class Served:
    """What a worker serves: the application, and in front of it the metered endpoints."""

    app: web.Application
    proxy: Proxy
    endpoints: frozenset[str]
    rules: EdgeRules

    def runner(self, **options: Any) -> EdgeRunner:
        """Runs it; options are those of `web.AppRunner`."""
        return EdgeRunner(self.app, self.proxy.handle, self.endpoints, self.rules, **options)


@asynccontextmanager
async def serving(runtime: Runtime, metrics: Metrics | None = None) -> AsyncIterator[tuple[Served, Health]]:
    """What a worker serves, its engine running. On leaving, running settlements are finished."""
    settings, defaults, engine = runtime.settings, runtime.settings.defaults, runtime.engine
    metrics = metrics or Metrics()
    tokenizer = Tokenizer()
    await asyncio.get_running_loop().run_in_executor(None, tokenizer.load)
    await sync_prices(runtime.database, settings.prices)
    follower = runtime.follower
    await follower.begin()
    transports = make_transports(settings, tokenizer)
    served = {name: provider for name, provider in settings.providers.items() if name in transports}
    models = {name: model for name, model in settings.models.items() if model.provider in served}
    router = Router(served, models, settings.prices)
    dialect = OpenAIDialect(structure_bounds(defaults))
    bodies = Bodies(body_rules(settings))
    links = Links(settings.frontend_url, follower.plans)
    missing = MissingUsage(defaults.missing_usage, tokenizer, dialect)
    log = None if settings.request_log is None else RequestLog(settings.request_log, defaults.request_log_lines)
    records = Records(runtime.refused, log)
    settler = Settlements(engine.holds, missing, metrics, defaults.max_usage_factor)
    remainder = Remainder(
        dialect,
        settler,
        DrainRules(defaults.disconnect_drain_s, defaults.reasoning_drain_s, defaults.upstream_answer_bytes),
        records,
    )
    forward_rules = ForwardRules(
        defaults.upstream_answer_bytes, defaults.max_request_s, defaults.client_write_timeout_s
    )
    forwarder = Forwarder(transports, dialect, settler, remainder, forward_rules, metrics, records, apart=bodies.apart)
    rules = ProxyRules(
        estimate=EstimateRules(defaults.strict, defaults.min_output_tokens, defaults.estimated_output_tokens),
        max_body_bytes=settings.proxy_max_body_bytes,
        upload_timeout_s=defaults.upload_timeout_s,
        grace_s=settings.payment_grace_days * DAY_S,
        admission_wait_s=defaults.admission_wait_ms / 1000,
        lookup_wait_s=lookup_wait_s(defaults),
        charge_expired=defaults.expired_hold == "input",
    )
    proxy = Proxy(
        *(engine.holds, engine.cache, engine.announcer, router, forwarder, dialect, links, rules, metrics, tokenizer),
        bodies,
        attempts=runtime.attempts,
        records=records,
    )
    health = Health(engine)
    reads = Reads(runtime, proxy, router, metrics, health)
    cors = Cors(settings.cors_origins) if settings.cors_origins else None
    middlewares = [] if cors is None else [answering(cors)]
    app = web.Application(client_max_size=settings.max_body_bytes, middlewares=middlewares)
    app.on_response_prepare.append(_identified)
    if cors is not None:
        app.on_response_prepare.append(cors.on_prepare)

    async def end_waits(_: web.Application) -> None:
        engine.holds.queue.close()

    app.on_shutdown.append(end_waits)
    setup(app, runtime.services)
    jobs = Jobs(
        *(engine, runtime.database, proxy, metrics, runtime.admin_api_key, runtime.attempts, new_id()),
        runtime.services,
    )
    add_routes(app, proxy, reads, jobs, dialect.endpoints)
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
    aside = SetAsideCount()
    metrics.gauge("debits_set_aside", "Debits that the ledger could not take.", lambda: aside.count, "max")
    metrics.gauge("holds_live", "Requests that are being served.", lambda: len(engine.holds.live))
    metrics.gauge("requests_waiting", "Requests that wait for running ones to end.", lambda: len(engine.holds.queue))
    metrics.gauge(
        "store_clock_difference_seconds",
        "What the clocks of Redis and Postgres differ by.",
        lambda: engine.partitions.clock_difference_s,
        "max",
    )
    metrics.gauge("body_bytes", "Bytes of request bodies in memory.", lambda: bodies.size_bytes)
    metrics.gauge("principals_cached", "Keys in memory.", lambda: len(engine.cache))
    metrics.gauge("refusals_dropped", "Refusals that were not kept to be looked up.", lambda: runtime.refused.dropped)
    metrics.gauge(
        "request_log_dropped",
        "Lines that the request log has not taken.",
        lambda: 0 if log is None else log.dropped,
    )
    engine.loops.on_failure = metrics.loop_failed
    try:
        await engine.start()
        engine.loops.start("housekeeping", lambda: _housekeeping(runtime, aside))
        engine.loops.start("metrics", lambda: _flush_metrics(metrics))
        engine.loops.start("plans", follower.run)
        engine.loops.start("refused", runtime.refused.run)
        engine.loops.start("reconcile", lambda: jobs.reconcile_for_ever(defaults.reconcile_interval_s))
        health.ready = True
        yield Served(app, proxy, dialect.endpoints, edge_rules(defaults, cors)), health
    finally:
        health.ready = False
        await engine.loops.stop("housekeeping", "metrics", "plans", "reconcile", "refused")
        await runtime.refused.flush()
        remainder.hurry()
        if not await engine.stop(defaults.postgres_timeout_s):
            logger.error("debits wait in Redis's journal: the next gateway writes them")
        metrics.flush()
        for transport in transports.values():
            await transport.close()
        tokenizer.close()
        bodies.close()
        if log is not None:
            log.close()


async def _identified(_: web.Request, response: web.StreamResponse) -> None:
    """Every answer has an id of its own; what versions serve here is nobody's business."""
    response.headers.pop("Server", None)
    if REQUEST_ID not in response.headers:
        response.headers[REQUEST_ID] = new_id()


@dataclass(slots=True)
class SetAsideCount:
    """How many debits lie set aside, as it was counted last."""

    count: int = 0


async def _housekeeping(runtime: Runtime, aside: SetAsideCount) -> None:
    """Note when keys were last used; create the months that usage is about to fall into; count what is set aside."""
    months_at = 0.0
    while True:
        used, runtime.engine.cache.used = runtime.engine.cache.used, {}
        try:
            if used:
                now_s = time.time()
                await runtime.api_keys.touch_last_used([(key_id, now_s) for key_id in used])
            aside.count = await count_set_aside(runtime.database)
            if time.monotonic() >= months_at:
                await runtime.database.execute("SELECT create_usage_months(current_date, $1)", MONTHS_AHEAD)
                months_at = time.monotonic() + MONTHS_EVERY_S
        except DatabaseError as error:
            logger.info("housekeeping: %s", error)
        await asyncio.sleep(HOUSEKEEPING_S)


async def _flush_metrics(metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(METRICS_FLUSH_S)
        with suppress(OSError):
            metrics.flush()
