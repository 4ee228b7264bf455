"""Metering beside the proxy: collecting the traffic that exporters count, and the events and holds of other services.

Both are made here from the settings. Collection also runs here, in one gateway at a time, and has its metrics here.
What an account has no room for is refused with the same answers as a request to the proxy.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import web
from msgspec import structs

from billing.accounts.grants import Grants
from billing.api.route import REQUEST_ID
from billing.api.services import Meters
from billing.collect.collector import LEASE, Collector, CollectRules, Parts
from billing.collect.debits import TrafficDebits, rate_of
from billing.collect.facts import Facts
from billing.collect.snapshots import Exporters, Source
from billing.collect.subjects import SubjectRules, Subjects
from billing.keys.keys import service_name
from billing.metering.events import EventWriter
from billing.metering.metering import Metering, MeteringContext, ServiceHolds
from billing.pages import new_id
from billing.work import Lease, Periodic
from gateway.config.secret import revealed
from gateway.server import limit_refusals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from billing.collect.debits import ByteRate
    from billing.database.connection import Database
    from billing.holds.cache import PrincipalCache
    from billing.holds.engine import Engine
    from billing.metering.charges import NotAdmitted, Payer
    from billing.pricing import PriceTable
    from billing.principals import Principal
    from gateway.config.environment import ExporterSource
    from gateway.config.settings import Settings
    from gateway.metrics.registry import Metrics
    from gateway.runtime.runtime import Runtime
    from gateway.server.limit_refusals import Links

logger = logging.getLogger(__name__)

# Connections of one process for collection: pages are written by two at once.
POOL_SIZE: Final = 2
# The longest statement: that of a page with many points, or of what has grown in a long time.
STATEMENT_S: Final = 120.0
# How often a gateway learns what the last run in any of them came to.
LOOK_S: Final = 15.0
DAY_S: Final = 86_400


def make_collector(
    settings: Settings,
    database: Database,
    engine: Engine,
    prices: Callable[[], PriceTable],
) -> Collector:
    """Return the collector of this process, on a database of its own."""
    defaults, effects = settings.defaults, engine.change_notifier
    grants = Grants(database, effects, new_id)
    rules = SubjectRules(
        unknown=defaults.collect.unknown_subjects,
        plan=defaults.accounts.default_plan,
        initial_nano=settings.initial_balance_nano,
        included_bytes=settings.initial_included_quota_bytes,
    )

    def rate(region: str, at: datetime) -> ByteRate:
        return rate_of(prices(), settings.price_per_byte_scaled, region, at)

    parts = Parts(
        exporters=Exporters(
            connections=defaults.collect.collect_at_once,
            answer_bytes=defaults.collect.collect_answer_bytes,
            limit=defaults.collect.collect_snapshots,
        ),
        facts=Facts(
            database, settings.source_revision, defaults.collect.first_point, defaults.collect.collect_keep_days
        ),
        subjects=Subjects(database, grants, rules, new_id),
        debits=TrafficDebits(database, grants, rate, effects.balances_changed, new_id),
    )
    return Collector(
        database,
        [_source(each) for each in settings.exporter_sources if each.enabled],
        parts,
        CollectRules(
            revision=settings.source_revision,
            pages=defaults.collect.collect_pages,
            overlap=timedelta(seconds=defaults.collect.collect_overlap_s),
            at_once=defaults.collect.collect_at_once,
        ),
        partial(datetime.now, UTC),
    )


def _source(given: ExporterSource) -> Source:
    return Source(
        source_id=given.source_id,
        base_url=given.base_url,
        token=revealed(given.token),
        region=given.region or "",
        expected_node_id=given.expected_node_id,
        expected_env=given.expected_env,
        timeout_s=given.timeout_s,
    )


def start_collecting(runtime: Runtime, metrics: Metrics) -> None:
    """Start collecting in the background where a source is configured, and add the metrics of collection."""
    collector, settings = runtime.collector, runtime.settings
    if not collector.sources:
        return
    told = "Age of the newest snapshot of the source that is furthest behind; 0 where none has one."
    metrics.gauge("collect_lag_seconds", told, lambda: collector.lag_s, "max")
    for source in collector.sources:
        told = "Age of the newest snapshot that was collected from a source."
        lag = partial(collector.lag_of, source.source_id)
        metrics.gauge("collect_source_lag_seconds", told, lag, "max", source=source.source_id)
    for name, told in _COUNTED.items():
        metrics.gauge(f"collect_last_{name}", told, partial(_of_last, collector, name), "max")
    lease = Lease(collector.database, LEASE, new_id())

    async def collect() -> None:
        await collector.run()
        await collector.refresh()

    runtime.start(
        Periodic(name=LEASE, every_s=settings.collect_interval_s, round=collect, lease=lease),
        Periodic(name=f"{LEASE}_look", every_s=LOOK_S, round=collector.refresh),
    )


_COUNTED: Final = {
    "processed_samples": "Samples of the last run of collection.",
    "written_minutes": "Facts by series and minute that the last run of collection has written.",
    "replayed_minutes": "Facts that the last run of collection was sent again.",
    "failed_sources": "Sources that the last run of collection could not read.",
    "set_aside": "Samples of impossible times in the last run of collection.",
    "conflicts": "Samples of the last run of collection that said another value than known ones.",
}


def _of_last(collector: Collector, name: str) -> int:
    return 0 if collector.last is None else int(getattr(collector.last, name))


def make_meters(
    settings: Settings,
    database: Database,
    engine: Engine,
    prices: Callable[[], PriceTable],
    links: Links,
) -> Meters:
    """Return the events and holds of other services as the API calls them."""
    defaults = settings.defaults
    service = structs.replace(defaults.services, grace_s=settings.payment_grace_s)
    writer = EventWriter(
        database,
        engine.change_notifier.balances_changed,
        engine.holds.spawn,
        batch_rows=defaults.stores.ledger_batch_rows,
        most=service.service_events_waiting,
    )
    context = MeteringContext(engine.holds, writer, _principals(engine.cache), prices, service, new_id, time.time)
    holds = ServiceHolds(context, database, engine.lasting, engine.keyspace.partition_of)
    return Meters(Metering(context), holds, _refusals(engine, links))


def _principals(cache: PrincipalCache) -> Callable[[Payer, bool], Awaitable[Principal | None]]:
    """Return a function that finds the principal of a metered account, in the cache of keys' principals."""

    async def principal(payer: Payer, stale: bool) -> Principal | None:
        name = service_name(payer.account_id, payer.service, payer.key_id)
        return await (cache.reload(name) if stale else cache.get(name))

    return principal


def _refusals(engine: Engine, links: Links) -> Callable[[NotAdmitted, web.Request], Awaitable[web.StreamResponse]]:
    """Return a function that answers what an account has no room for, as the proxy does."""

    async def refusal(error: NotAdmitted, request: web.Request) -> web.StreamResponse:
        principal = error.principal
        if error.decision is not None:
            found = limit_refusals.of_decision(error.decision, principal, links)
        else:
            live = await engine.change_notifier.live_balance(principal.account_id)
            available_nano = None if live is None else live.balance_nano + principal.credit_limit_nano
            found = limit_refusals.billing_required(principal, links, available_nano, error.required_nano)
        return found.response(request.get(REQUEST_ID) or "")

    return refusal
