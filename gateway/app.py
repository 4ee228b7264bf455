"""One worker process, and the one wiring of what it serves: from settings to stores, services, engine, routes.

    python -m gateway.app --fd N --ready-fd M [--hand-fds N M]
    python -m gateway.app --adopt-fds N M --ready-fd M

It serves on a socket that its supervisor opened. The second one is the process of pages, which serves what workers give
away (`gateway.process.pages`). Reads the environment like every command; DATABASE_URL and REDIS_URL must be set. On
SIGTERM it stops accepting, finishes running answers within `shutdown_grace_s`, writes the debits that wait, and ends
with 0. On SIGUSR2 another worker serves in its place: it stops accepting, too, but keeps the connections that it has
as long as they last, at most `shutdown_grace_s`. Each request that comes on one is served, and is the last one there.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # until it serves: what is imported stays, and to look at it again takes a tenth of the start

import argparse
import asyncio
import ctypes
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from signal import SIGUSR2
from typing import TYPE_CHECKING, Any, Final

import uvloop
from aiohttp import web
from msgspec import structs

from billing.addresses import Addresses
from billing.api.application import setup
from billing.database.migrate import require_none_pending
from billing.errors import StoreError
from billing.ledger.catalogue import newest_revision, sync_prices
from billing.logs import write_json
from billing.notices.troubles import TroubleNotices
from billing.owned import BackgroundJobs, OwnedObjects
from billing.pages import new_id
from billing.web.application import setup as setup_console
from billing.web.render import compile_templates
from billing.work import Periodic
from gateway.auth import Authenticator
from gateway.config.prices import POLL_S, PriceFollower
from gateway.config.settings import ConfigError, Settings, load_settings
from gateway.config.source import PRICES_FILE
from gateway.dialects.registry import Dialects, make_dialects
from gateway.endpoints.health import Health
from gateway.endpoints.jobs import Jobs, SetAsideCount, add_gauges, house_work, start_shared_work
from gateway.endpoints.metrics_access import inherited_listener, metrics_served
from gateway.endpoints.reads import Reads
from gateway.endpoints.response_sockets import ResponseSockets
from gateway.endpoints.routes import add_routes, endpoints_of
from gateway.metrics.history import History
from gateway.metrics.registry import METRICS_DIR_VARIABLE, Metrics
from gateway.process.pages import Hand, adopting, yield_to_workers
from gateway.process.supervisor import (
    EMBEDDED_VARIABLE,
    GATEWAY_ID_VARIABLE,
    SUPERVISOR_PID_VARIABLE,
    die_with_parent,
    stop_signals,
)
from gateway.proxy.background_jobs import BackgroundPoller, JobProviders
from gateway.proxy.detached import Detached
from gateway.proxy.handler import Proxy
from gateway.proxy.provider_tests import ProviderTests
from gateway.proxy.records import Records, RequestLog
from gateway.proxy.routing import Router
from gateway.proxy.serving import ServingParts
from gateway.proxy.settlement.missing_usage import MissingUsage
from gateway.proxy.settlement.settlements import Settlements
from gateway.proxy.stored import StoredObjects
from gateway.proxy.target_health import HealthBoard, SharedHealth
from gateway.runtime.body_logs import open_body_log
from gateway.runtime.payments import links_of, serve_payments
from gateway.runtime.stores import lookup_wait_s
from gateway.runtime.wiring import open_runtime
from gateway.server.aiohttp_private import EdgeKind, UnknownAiohttp, check_edge
from gateway.server.bodies import Bodies
from gateway.server.clients import Clients
from gateway.server.cors import Cors, answering
from gateway.server.edge import EdgeRunner, EdgeServer
from gateway.server.guard import EdgeRules
from gateway.server.ids import REQUEST_ID
from gateway.server.listening import LEAST_SHARERS, connections_within, raise_file_limit
from gateway.server.plain import PlainRunner
from gateway.tokens import Tokenizer
from gateway.tracing.exporter import Tracer
from gateway.upstream.local.openai import SharedObjects
from gateway.upstream.local.provider import LocalTransport
from gateway.upstream.transport import HttpTransport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from billing.api.services import Services
    from billing.database.connection import Database
    from billing.holds.engine import Engine
    from billing.pricing import PriceTable
    from gateway.body_logs.writer import BodyWriter
    from gateway.config.providers import ProviderConfig
    from gateway.runtime.runtime import Runtime
    from gateway.upstream.base import Transport
    from gateway.upstream.local.openai import ObjectStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """What a worker serves: the application, and in front of it the metered endpoints."""

    app: web.Application
    proxy: Proxy
    dialects: Dialects
    rules: EdgeRules
    edge: EdgeKind
    clients: Clients

    def runner(self, **options: Any) -> EdgeRunner | PlainRunner:
        """Run it; options are those of `web.AppRunner`."""
        if self.edge == "plain":
            return PlainRunner(self.app, self.rules, clients=self.clients, **options)
        return EdgeRunner(self.app, self.proxy, self.dialects.find, self.rules, clients=self.clients, **options)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What handles metered requests, and what has to be closed after it."""

    tokenizer: Tokenizer
    transports: dict[str, Transport]
    router: Router
    board: HealthBoard
    dialects: Dialects
    bodies: Bodies
    request_log: RequestLog | None
    tracer: Tracer | None
    bodies_written: BodyWriter | None
    detached: Detached
    poller: BackgroundPoller
    proxy: Proxy

    def work(self, database: Database) -> tuple[Periodic, ...]:
        """Return the loops of its own."""
        traces = () if self.tracer is None else (self.tracer.work(),)
        writer = self.bodies_written
        return traces if writer is None else (*traces, writer.work(), writer.removal(database, new_id()))

    async def close(self) -> None:
        """Close connections, threads and files."""
        for transport in self.transports.values():
            await transport.close()
        self.tokenizer.close()
        self.bodies.close()
        if self.request_log is not None:
            self.request_log.close()


@asynccontextmanager
async def serving(
    runtime: Runtime, metrics: Metrics | None = None, *, shared_work: bool = True
) -> AsyncIterator[tuple[Served, Health]]:
    """Give what a worker serves, its engine running. On leaving, running settlements are finished. Without
    `shared_work` nothing runs here that any gateway may do for all, and the plans in force are not this one's file."""
    settings, engine = runtime.settings, runtime.engine
    metrics = metrics or Metrics()
    tokenizer = Tokenizer()
    await asyncio.get_running_loop().run_in_executor(None, tokenizer.verify)
    await sync_prices(runtime.database, settings.prices)
    if shared_work:
        await runtime.follower.begin()
    else:
        await runtime.follower.follow(await newest_revision(runtime.database))
    parts = _make_parts(runtime, metrics, tokenizer)
    health, aside = Health(engine, runtime.collector, metrics, parts.board, parts.bodies_written), SetAsideCount()
    jobs = Jobs(runtime, metrics, new_id())
    cors = Cors(settings.cors_origins) if settings.cors_origins else None
    rules = _edge_rules(settings, cors)
    clients = Clients(rules.connections, asyncio.get_running_loop())
    app = _application(runtime, cors, clients)
    reads = Reads(runtime, parts.proxy, parts.router, parts.dialects, metrics, health)
    endpoints = endpoints_of(parts.proxy, reads, jobs, parts.dialects)
    services = replace(_services(runtime, parts), models=reads.catalogue, troubles=health.everywhere, job=jobs.last)
    setup(app, services, endpoints.all)
    setup_console(app, services)
    sockets = ResponseSockets(parts.proxy, parts.dialects.find, settings, partial(_stored_nano, runtime))
    app.on_shutdown.append(sockets.stop)
    serve_payments(app, runtime)
    add_routes(app, endpoints, parts.proxy, parts.dialects, runtime.services, sockets)
    price_follower = _price_follower(runtime, parts.router)
    add_gauges(metrics, runtime, parts.bodies, parts.request_log, aside)
    _add_gauges(metrics, price_follower, clients, parts)
    metrics.loop_failures = engine.loops.failures
    engine_loops: frozenset[str] | None = None
    try:
        await engine.start(shared_work=shared_work)
        engine_loops = frozenset(engine.loops.tasks)
        runtime.start(*house_work(runtime, metrics, health, aside))
        runtime.start(runtime.follower.work(engine.pending), runtime.refused.work())
        runtime.start(Periodic(name="prices", every_s=POLL_S, round=price_follower.look), *parts.work(runtime.database))
        _share_health(engine, parts.board)
        if shared_work:
            runtime.start(*_oversight(runtime, metrics, parts.board, health))
            engine.loops.start("background", partial(parts.poller.run, engine.pending))
            health.exports = start_shared_work(runtime, metrics, jobs)
        health.ready = True
        yield Served(app, parts.proxy, parts.dialects, rules, settings.defaults.edge.edge, clients), health
    finally:
        health.ready = False
        if engine_loops is not None:
            await engine.loops.stop(*(engine.loops.tasks.keys() - engine_loops))
        await runtime.refused.flush()
        parts.detached.drain_now()
        await parts.poller.stop()
        if not await engine.stop(settings.defaults.stores.postgres_timeout_s):
            logger.error("debits wait in Redis's journal: the next gateway writes them")
        metrics.flush()
        await sockets.close()
        await parts.close()


def _services(runtime: Runtime, parts: _Parts) -> Services:
    """Return what the API serves, with what this worker alone can do of it."""
    tests = ProviderTests(
        runtime.settings.providers,
        parts.transports,
        parts.router,
        parts.dialects,
        runtime.settings.defaults.upstream.provider_test_s,
    )
    return replace(runtime.services, test_provider=tests.run)


def _share_health(engine: Engine, board: HealthBoard) -> None:
    shared = SharedHealth(board, engine.redis, new_id())
    engine.loops.start("targets_tell", shared.tell)
    engine.loops.start("targets_listen", shared.listen)


def _oversight(runtime: Runtime, metrics: Metrics, board: HealthBoard, health: Health) -> tuple[Periodic, ...]:
    """Return what writes down how providers answer this worker, and what looks at how they answer all, and at what
    waits. The process of pages asks no provider, and is told by the workers."""
    traffic = runtime.services.traffic
    told = TroubleNotices(
        runtime.database, lambda: {each.about: each.message for each in health.everywhere()}, new_id()
    )
    return History(metrics, traffic, board.changes).work(), health.work(runtime.database, traffic), told.work()


async def _stored_nano(runtime: Runtime, account_id: str) -> int:
    return (await runtime.accounts.get(account_id)).balance_nano


def _add_gauges(metrics: Metrics, price_follower: PriceFollower, clients: Clients, parts: _Parts) -> None:
    tracer, log = parts.tracer, None if parts.bodies_written is None else parts.bodies_written.log
    metrics.gauge("traces_dropped", "Traces that were not sent.", lambda: 0 if tracer is None else tracer.dropped)
    metrics.gauge(
        "body_logs_dropped", "Requests whose bodies were not written.", lambda: 0 if log is None else log.dropped
    )
    metrics.gauge(
        "body_logs_bytes",
        "Bytes in memory of bodies that are recorded, or wait to be written.",
        lambda: 0 if log is None else log.size_bytes,
    )
    metrics.gauge(
        "prices_unreadable",
        "1 while the file of prices can't be read and the table before it is in force.",
        lambda: price_follower.broken,
        "max",
    )
    metrics.gauge("connections", "Connections of clients.", lambda: len(clients))
    metrics.connections_ended, metrics.connections_refused = clients.ended, clients.refused


def _make_parts(runtime: Runtime, metrics: Metrics, tokenizer: Tokenizer) -> _Parts:
    """Make the proxy out of its parts."""
    settings, defaults, engine = runtime.settings, runtime.settings.defaults, runtime.engine
    store = SharedObjects(runtime.redis_client.command, engine.keyspace.name(0, "local:"))
    transports = _make_transports(settings, tokenizer, store)
    served = {name: provider for name, provider in settings.providers.items() if name in transports}
    models = {name: model for name, model in settings.models.items() if model.provider in served}
    board = HealthBoard(served.values())
    _show_targets(metrics, board, served)
    router = Router(served, models, settings.prices, board)
    dialects = make_dialects(defaults.structure)
    _note_unknown_dialects(served.values(), dialects)
    bodies = Bodies(defaults.bodies, settings.proxy_max_body_bytes)
    links = links_of(settings, runtime.follower.plans)
    log = None if settings.request_log is None else RequestLog(settings.request_log, defaults.process.request_log_lines)
    records = Records(runtime.refused, log)
    tracer = None if settings.traces is None else Tracer(settings.traces, defaults.process.traces_waiting)
    writer = open_body_log(settings, engine.gateway_id)
    missing = MissingUsage(defaults.request.missing_usage, tokenizer)
    settlements = Settlements(engine.holds, missing, metrics, defaults.request.max_usage_factor)
    jobs = BackgroundJobs(
        runtime.database, engine.change_notifier, engine.gateway_id, defaults.background.background_lease_s
    )
    providers = JobProviders(transports, router, defaults.request)
    poller = BackgroundPoller(
        jobs,
        providers,
        settlements,
        dialects.creations(),
        defaults,
        new_id=new_id,
        clock=time.time,
    )
    detached = Detached(settlements, defaults.request, records, poller)
    stored = StoredObjects(OwnedObjects(runtime.database), router, time.time)
    wait_s = lookup_wait_s(defaults)
    proxy = Proxy(
        ServingParts(
            settings=settings,
            holds=engine.holds,
            keys=Authenticator(engine.cache, runtime.attempts, wait_s, keys_url=links.keys_url),
            effects=engine.change_notifier,
            router=router,
            transports=transports,
            settlements=settlements,
            detached=detached,
            links=links,
            metrics=metrics,
            tokenizer=tokenizer,
            bodies=bodies,
            records=records,
            stored=stored,
            poller=poller,
            in_thread=bodies.in_thread,
            tracer=tracer,
            body_log=None if writer is None else writer.log,
        )
    )
    return _Parts(tokenizer, transports, router, board, dialects, bodies, log, tracer, writer, detached, poller, proxy)


def _show_targets(metrics: Metrics, board: HealthBoard, providers: Iterable[str]) -> None:
    for name in providers:
        told = "Provider targets whose circuit breaker is open."
        metrics.gauge("targets_open", told, partial(board.open_of, name), "max", provider=name)


def _make_transports(settings: Settings, tokenizer: Tokenizer, store: ObjectStore) -> dict[str, Transport]:
    """Return a transport for each provider that is on and of a kind that this version serves; local ones keep what they
    make on `store`."""
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
                timeout_s=defaults.upstream.upstream_timeout_s,
                store=store,
            )
        else:
            transports[provider.name] = HttpTransport(
                connections=defaults.upstream.upstream_connections,
                connect_timeout_s=defaults.stores.connect_timeout_s,
                timeout_s=defaults.upstream.upstream_timeout_s,
                account_share=defaults.upstream.upstream_account_share,
                waiting=defaults.upstream.upstream_waiting,
            )
    return transports


def _note_unknown_dialects(providers: Iterable[ProviderConfig], dialects: Dialects) -> None:
    """Log the dialects that providers name and this version does not have: requests never reach them there."""
    for provider in providers:
        for name in sorted(provider.served - dialects.by_name.keys()):
            known = ", ".join(sorted(dialects.by_name))
            logger.warning("provider %s: there is no dialect %s here; those that are: %s", provider.name, name, known)


def _edge_rules(settings: Settings, cors: Cors | None) -> EdgeRules:
    """Return what the edge follows of the configuration."""
    edge = settings.defaults.edge
    most = connections_within(edge.max_connections)
    given = {
        **structs.asdict(edge),
        "max_connections": most,
        "connections_per_address": max(1, min(edge.connections_per_address, most // LEAST_SHARERS)),
        "connections_per_account": max(1, min(edge.connections_per_account, most // LEAST_SHARERS)),
    }
    return EdgeRules(
        **given,
        addresses=Addresses(settings.trusted_proxies),
        max_body_bytes=settings.proxy_max_body_bytes,
        max_api_body_bytes=settings.max_body_bytes,
        cors=cors,
    )


def _application(runtime: Runtime, cors: Cors | None, clients: Clients) -> web.Application:
    """Make the application, without a route yet."""
    app = web.Application(
        client_max_size=runtime.settings.max_body_bytes, middlewares=[] if cors is None else [answering(cors)]
    )
    app.on_response_prepare.append(_identified)
    app.on_response_prepare.append(partial(_last_where_leaving, clients))
    if cors is not None:
        app.on_response_prepare.append(cors.on_prepare)

    async def end_waits(_: web.Application) -> None:
        runtime.engine.holds.queues.close()

    app.on_shutdown.append(end_waits)
    return app


def _price_follower(runtime: Runtime, router: Router) -> PriceFollower:
    """Make what has requests priced by the file of prices as it is now."""
    settings = runtime.settings

    def apply(prices: PriceTable) -> None:
        router.reprice(prices)
        runtime.in_force.prices = prices

    return PriceFollower(
        settings.folder / PRICES_FILE,
        os.environ,
        settings.prices,
        settings.price_marks,
        lambda table: sync_prices(runtime.database, table),
        apply,
    )


async def _identified(_: web.Request, response: web.StreamResponse) -> None:
    """Give every answer an id of its own, keep browsers from taking it for something else, and take out what tells the
    server's version."""
    response.headers.pop("Server", None)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if REQUEST_ID not in response.headers:
        response.headers[REQUEST_ID] = new_id()


async def _last_where_leaving(clients: Clients, request: web.Request, response: web.StreamResponse) -> None:
    """Have a connection end with this answer where another process serves in this one's place."""
    if clients.leaving and response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        response.force_close()
        response.headers["Connection"] = "close"


KEEPALIVE_S: Final = 75.0
# How often a worker in whose place another one serves looks whether a connection is left.
LEAVING_LOOK_S: Final = 0.05
# For what runs longer than `shutdown_grace_s`, such as a WebSocket that is to be closed with a word.
LAST_S: Final = 1.0
# The first two bound how many objects are looked at in one go, some milliseconds for these: thousands of new
# connections have hundreds of thousands. Each is looked at twice, whatever the second is.
GC_THRESHOLDS: Final = (10_000, 1, 2_000)
LARGE_BLOCK_BYTES: Final = 1 << 20
# How long a thread runs on when another one waits, five times shorter than Python's default: the one that waits is the
# event loop, as a rule, while a large body is parsed.
SWITCH_S: Final = 0.001

# https://man7.org/linux/man-pages/man3/mallopt.3.html
_M_MMAP_THRESHOLD: Final = -3


async def serve(settings: Settings, passed: argparse.Namespace) -> None:
    """Serve on the descriptors that `passed` names until one of `stop_signals`. Raises `StoreError` when it can't
    start."""
    stopping, leaving = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(SIGUSR2, leaving.set)
    assert settings.database_url is not None and settings.redis_url is not None  # noqa: S101, PT018  (checked by main)
    folder = os.environ.get(METRICS_DIR_VARIABLE)
    metrics = Metrics(Path(folder) if folder else None, is_worker=not passed.adopt_fds)
    async with (
        open_runtime(
            settings,
            database_url=settings.database_url.reveal(),
            redis_url=settings.redis_url.reveal(),
            embedded=os.environ.get(EMBEDDED_VARIABLE) == "1",
            gateway_id=os.environ.get(GATEWAY_ID_VARIABLE),
        ) as runtime,
        _on_its_schema(runtime),
        serving(runtime, metrics, shared_work=not passed.adopt_fds) as (served, health),
        metrics_served(metrics, None if passed.adopt_fds else inherited_listener(os.environ)),
    ):
        runner = served.runner(
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            handle_signals=False,
            shutdown_timeout=settings.defaults.process.shutdown_grace_s,
            **({"hand": Hand(*passed.hand_fds)} if passed.hand_fds else {}),
        )
        await runner.setup()
        _settle_garbage_collector()
        async with _accepting(runner, passed, settings.defaults.process.pages_idle_s, stopping.set):
            if passed.ready_fd is not None:
                os.write(passed.ready_fd, b"1")
                os.close(passed.ready_fd)
            await _first(stopping, leaving)
            health.ready, served.clients.leaving = not stopping.is_set(), leaving.is_set()
        if leaving.is_set():
            await _left(runner, stopping, settings.defaults.process.shutdown_grace_s)
        await runner.cleanup()  # waits shutdown_grace_s for running answers, then closes what is left


@asynccontextmanager
async def _on_its_schema(runtime: Runtime) -> AsyncIterator[None]:
    """Refuse a schema that is not this release's: a worker may be of another one than the process that starts it.
    Raises `MigrationError`."""
    await require_none_pending(runtime.database)
    yield


async def _first(*events: asyncio.Event) -> None:
    """Wait for one of them."""
    waits = [asyncio.ensure_future(each.wait()) for each in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()


async def _left(runner: EdgeRunner | PlainRunner, stopping: asyncio.Event, grace_s: float) -> None:
    """Serve on the connections that are there until they end, one of `stop_signals` comes, or `grace_s` have passed:
    then what is left ends within moments."""
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None  # noqa: S101  (it was set up)
    until_s = loop.time() + grace_s
    while server.connections and loop.time() < until_s and not stopping.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LEAVING_LOOK_S)
    if not stopping.is_set() and server.connections:
        logger.info("%d connections end: another worker has served for %g s", len(server.connections), grace_s)
        await runner.shutdown()
        await server.shutdown(LAST_S)


@asynccontextmanager
async def _accepting(
    runner: EdgeRunner | PlainRunner, passed: argparse.Namespace, idle_s: float, end: Callable[[], None]
) -> AsyncIterator[None]:
    """Take connections: of the listening socket, or those that workers give away, until none has come for `idle_s`."""
    if passed.adopt_fds:
        server = runner.server
        assert isinstance(server, EdgeServer)  # noqa: S101  (checked by main)
        await compile_templates()  # half a second, and where workers are busy much longer: else the first look waits
        async with adopting(passed.adopt_fds, server, idle_s, end):
            yield
        return
    listener = socket.socket(fileno=passed.fd)
    listener.setblocking(False)
    site = runner.site(listener)
    await site.start()
    try:
        yield
    finally:
        await site.stop()


def _settle_garbage_collector() -> None:
    """Collect seldom, and never look again at what a worker is made of.

    A request leaves few cycles behind, but allocates enough to trigger a collection for every few of them: by default
    that is a tenth of the worker's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


def _settle_memory_and_threads() -> None:
    """Have large blocks, which are bodies, mapped each for itself: they grow without a copy, and go back to the system
    when they are freed. glibc stops doing so after the first of them, and a heap that was full of them stays large.
    Other C libraries are left as they are."""
    sys.setswitchinterval(SWITCH_S)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def main() -> int:
    """Return the process's entry; 0 after a signal, 1 when it could not serve."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    accepts = parser.add_mutually_exclusive_group(required=True)
    accepts.add_argument("--fd", type=int, help="the listening socket")
    accepts.add_argument("--adopt-fds", type=int, nargs=2, help="pages: where connections come from, and the state")
    parser.add_argument("--hand-fds", type=int, nargs=2, help="where pages are given away, and the state")
    parser.add_argument("--ready-fd", type=int, help="a pipe that is told when this worker serves")
    arguments = parser.parse_args()
    if arguments.adopt_fds:
        yield_to_workers()
    if SUPERVISOR_PID_VARIABLE in os.environ:
        die_with_parent(int(os.environ[SUPERVISOR_PID_VARIABLE]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = load_settings(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if settings.log_format == "json":
        write_json()
    if settings.database_url is None or settings.redis_url is None:
        print("DATABASE_URL and REDIS_URL must be set; `metergate up` sets them by itself.", file=sys.stderr)
        return 1
    if settings.defaults.edge.edge != "guarded" or not settings.defaults.process.pages_idle_s:  # since the others began
        arguments.hand_fds = None
        if arguments.adopt_fds:
            print("Pages have a process of their own with `edge: guarded` and `pages_idle_s` alone.", file=sys.stderr)
            return 1
    try:
        check_edge(settings.defaults.edge.edge)
    except UnknownAiohttp as error:
        print(error, file=sys.stderr)
        return 1
    _settle_memory_and_threads()
    raise_file_limit()
    try:
        uvloop.run(serve(settings, arguments))
    except (StoreError, TimeoutError) as error:
        logger.error("can't serve: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
