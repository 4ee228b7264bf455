"""What the gateway answers by itself: models, the key's own limits, one request's cost, health, metrics, and the answer
for a path or method that does not exist."""

import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiohttp import web

from billing.api.errors import ApiError
from billing.api.shapes import key_shape
from billing.errors import StoreError
from billing.event_shapes import explanation_shape
from billing.holds.engine import Engine
from billing.holds.journal import settled_debit
from billing.holds.redis.layout import AccountState, Counter, KeyState
from billing.ledger.explanations import Explanation
from billing.money import format_usd
from billing.prices import PriceRow
from billing.principals import Limit, Principal
from billing.quotas import Metric, Window, window_end_s, window_id
from gateway.auth import shown_key
from gateway.endpoints.documentation import docs, html
from gateway.endpoints.jobs import Jobs
from gateway.endpoints.metrics_access import shown_to_admin
from gateway.metrics.registry import Metrics
from gateway.proxy.handler import Proxy
from gateway.proxy.routing import Route, Router
from gateway.runtime import Runtime
from gateway.server import refusals
from gateway.server.edge import route_of
from gateway.server.metering_headers import REQUEST_ID
from gateway.server.refusals import Refuse

logger = logging.getLogger(__name__)

READ_SCOPE: Final = "billing:read"
API: Final = "v1"
"""What every path of the proxy begins with."""


class Health:
    """Whether this worker serves, and how its stores are."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ready = False

    def troubles(self) -> list[str]:
        """What an operator should look at, a clause each."""
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
        return found


class Reads:
    """Handlers that meter nothing."""

    def __init__(self, runtime: "Runtime", proxy: Proxy, router: Router, metrics: Metrics, health: Health) -> None:
        self._runtime = runtime
        self._proxy = proxy
        self._router = router
        self._metrics = metrics
        self._health = health

    async def models(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/models: what this key may use, with prices."""
        principal = await self._caller(request)
        found = (_model_shape(principal, route) for route in self._router.entries(time.time()))
        return _json({"object": "list", "data": [shape for shape in found if shape is not None]})

    async def model(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/models/{id}."""
        principal = await self._caller(request)
        name = request.match_info["id"]
        route = self._router.find(name, time.time())
        shape = None if route is None else _model_shape(principal, route)
        if shape is None:
            raise Refuse(refusals.model_not_found(name))
        return _json(shape)

    async def key(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/key: the key, and what is left of every window that applies to it."""
        principal = await self._caller(request)
        try:
            row = await self._runtime.api_keys.get(principal.key_id)
            windows = await self._windows(principal)
        except StoreError as error:
            raise Refuse(refusals.unavailable()) from error
        return _json({**key_shape(row), "windows": windows})

    async def generation(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/generations/{id}: one request's usage event, with its arithmetic."""
        principal = await self._caller(request)
        if READ_SCOPE not in principal.scopes:
            raise Refuse(refusals.insufficient_scope(READ_SCOPE))
        request_id = request.match_info["id"]
        try:
            known = request_id.isprintable()  # Postgres takes no NUL
            found = await self._explanation(request_id, principal.account_id) if known else None
        except StoreError as error:
            raise Refuse(refusals.unavailable()) from error
        if found is None:
            raise Refuse(refusals.not_found(request.path))
        return _json(explanation_shape(found))

    async def _explanation(self, request_id: str, account_id: str) -> Explanation | None:
        """A request's debit: in Postgres or, while it is on its way there, in Redis's journal."""
        runtime = self._runtime
        found = await runtime.reports.explain(request_id, account_id)
        if found is not None:
            return found
        debit = await settled_debit(runtime.link, runtime.engine.keyspace, account_id, request_id)
        if debit is not None:
            return await runtime.reports.explain_debit(debit)
        return await runtime.reports.explain(request_id, account_id)  # it may have left the one for the other meanwhile

    async def _caller(self, request: web.Request) -> Principal:
        return await self._proxy.admit(shown_key(request.headers), request.remote or "", request.headers)

    async def _windows(self, principal: Principal) -> list[dict[str, object]]:
        engine, link = self._runtime.engine, self._runtime.link
        keys, partition = engine.keyspace, engine.partitions.of(principal.account_id)
        raw_account = await link.command("GET", keys.account(principal.account_id))
        raw_key = await link.command("GET", keys.key(principal.account_id, principal.key_id))
        account = AccountState.unpack(raw_account) if raw_account else None
        key = KeyState.unpack(raw_key) if raw_key else None
        used_by_account = _used(account.counters if account and account.epoch == partition.epoch else ())
        used_by_key = _used(key.counters if key and key.epoch == partition.epoch else ())
        now_s = partition.now_ms() // 1000
        shown = []
        for limit in principal.every_limit():
            used = used_by_key if limit.subject == "key" else used_by_account
            shown.append(_window_shape(limit, used, now_s))
        return shown

    async def healthz(self, request: web.Request) -> web.Response:
        """Liveness: this process answers, and says what troubles it."""
        troubles = self._health.troubles()
        return _json({"status": "degraded" if troubles else "ok", "message": "; ".join(troubles)})

    async def readyz(self, request: web.Request) -> web.Response:
        """200 once it serves, 503 before and while draining."""
        if self._health.ready:
            return _json({"status": "ok", "message": ""})
        return _json({"status": "unavailable", "message": "starting or stopping"}, 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics on the public port: for the admin key alone."""
        return await shown_to_admin(request, self._metrics, self._runtime.admin_api_key, self._runtime.attempts)


def _used(counters: Iterable[Counter]) -> Mapping[int, Counter]:
    return {counter.tag: counter for counter in counters}


def _window_shape(limit: Limit, used_by_tag: Mapping[int, Counter], now_s: int) -> dict[str, object]:
    quota = limit.quota
    counter = used_by_tag.get(quota.tag)
    is_current = counter is not None and counter.window_id == window_id(quota.window, now_s)
    used, held = (counter.used, counter.held) if counter is not None and is_current else (0, 0)
    end_s = window_end_s(quota.window, now_s)

    def shown(amount: int) -> object:
        return format_usd(amount) if quota.metric is Metric.cost else amount

    return {
        "subject": limit.subject,
        "window": Window(quota.window).name,
        "metric": quota.metric.name,
        "model": quota.model,
        "limit": shown(quota.limit),
        "used": shown(used),
        "held": shown(held),
        "remaining": shown(max(0, quota.limit - used - held)),
        "resets_at": None if end_s is None else datetime.fromtimestamp(end_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _model_shape(principal: Principal, route: Route) -> dict[str, Any] | None:
    """A model as it is listed; None where this key's requests for it would be refused."""
    if route.rates is None or not principal.allows_model(route.entry):
        return None
    row = route.rates.row
    return {
        "id": route.entry,
        "object": "model",
        "created": int(datetime.combine(row.effective_from, datetime.min.time(), UTC).timestamp()),
        "owned_by": route.provider.name,
        "max_output_tokens": route.max_output_tokens,
        "context_window": row.context_window,
        "pricing": _pricing(row),
    }


def _pricing(row: PriceRow) -> dict[str, object]:
    return {
        "price_id": row.id,
        "usd_per_million": {name: format_usd(rate) for name, rate in row.per_million.items()},
        "usd_per_unit": {name: format_usd(rate) for name, rate in row.per_unit.items()},
    }


def _json(said: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(said), status=status, content_type="application/json")


async def _meant(request: web.Request, known: Iterable[web.AbstractResource]) -> str | None:
    """The path that a request to nothing was meant for: with `/v1` before it once, and no slash too many."""
    parts = [part for part in request.path.split("/") if part]
    while parts and parts[0] == API:
        parts.pop(0)
    path = "/".join(("", API, *parts))
    if path == request.path:
        return None
    meant = request.clone(rel_url=request.rel_url.with_path(path))
    for resource in known:
        if any(await resource.resolve(meant)):
            return path
    return None


def add_routes(app: web.Application, proxy: Proxy, reads: Reads, jobs: Jobs, endpoints: Iterable[str]) -> None:
    """Every path that the gateway serves itself; the billing API is mounted beside it."""
    for endpoint in sorted(endpoints):
        app.router.add_post(endpoint, route_of(proxy.handle))

    def refusing(handler: Any) -> Any:
        async def refusing_handler(request: web.Request) -> web.StreamResponse:
            request_id = proxy.new_id()
            try:
                answer: web.StreamResponse = await handler(request)
            except Refuse as refused:
                return proxy.count(refused.refusal).response(request_id)
            except ApiError as error:  # of a body, which is read as the billing API reads its own
                answer = error.response()
            except Exception:
                logger.exception("request %s failed", request_id)
                return proxy.count(refusals.unavailable()).response(request_id)
            answer.headers[REQUEST_ID] = request_id
            return answer

        return refusing_handler

    app.router.add_get("/v1/models", refusing(reads.models))
    app.router.add_get("/v1/models/{id:.+}", refusing(reads.model))
    app.router.add_get("/v1/key", refusing(reads.key))
    app.router.add_get("/v1/generations/{id}", refusing(reads.generation))
    app.router.add_get("/v1/status", refusing(jobs.status))
    app.router.add_post("/v1/jobs/reconcile", refusing(jobs.post_reconcile))
    html()  # rendered now, and not while others wait for it
    app.router.add_get("/docs", docs)
    for path in ("/healthz", "/health"):
        app.router.add_get(path, reads.healthz)
    app.router.add_get("/readyz", reads.readyz)
    app.router.add_get("/metrics", refusing(reads.metrics))
    known = [resource for resource in app.router.resources() if resource.canonical != "/api"]

    async def unknown(request: web.Request) -> web.StreamResponse:
        allowed: set[str] = set()
        for resource in known:
            _, methods = await resource.resolve(request)
            allowed |= methods
        if not allowed:
            refusal = refusals.not_found(request.path, await _meant(request, known))
            return proxy.count(refusal).response(proxy.new_id())
        listed = ", ".join(sorted(allowed))
        refusal = refusals.method_not_allowed(request.method, request.path, listed)
        answer = proxy.count(refusal).response(proxy.new_id())
        answer.headers["Allow"] = listed
        return answer

    app.router.add_route("*", "/{path:(?s:.*)}", unknown)
