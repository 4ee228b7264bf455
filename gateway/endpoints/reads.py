"""What the gateway answers by itself: models, the key's own limits, one request's cost, health and metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web
from msgspec import UNSET

from billing.api.auth import BILLING_READ
from billing.api.remaining import live_windows
from billing.holds.recovery import settled_debit
from billing.ledger.explanations import explain
from billing.pricing import marked_up_usd
from billing.schemas.keys import KeyLimitsShape
from billing.schemas.people import JwksShape
from billing.schemas.system import (
    HealthShape,
    ModelShape,
    ModelsShape,
    PricingShape,
)
from billing.schemas.usage import ExplainedEventShape
from gateway.auth import key_of
from gateway.dialects.body import BadRequest
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.dialects.openai_responses.dialect import CLIENT_VERSION, CodexModels
from gateway.dialects.registry import MODEL_LISTS
from gateway.endpoints.metrics_access import shown
from gateway.proxy.estimate import markup_of
from gateway.proxy.routing import is_priced_here, writes
from gateway.server import refusals
from gateway.server.refusals import Refuse

if TYPE_CHECKING:
    from billing.ledger.reports import PricedEvent
    from billing.plans import Plan
    from billing.principals import Principal
    from gateway.dialects.base import ModelList
    from gateway.dialects.registry import Dialects
    from gateway.endpoints.health import Health
    from gateway.metrics.registry import Metrics
    from gateway.proxy.candidates import Candidate, Route
    from gateway.proxy.handler import Proxy
    from gateway.proxy.routing import Router
    from gateway.runtime.runtime import Runtime

# How long others may keep the keys: far less than the next one is published before it signs.
JWKS_AGE_S = 300


class Reads:
    """Handlers that meter nothing."""

    def __init__(
        self, runtime: Runtime, proxy: Proxy, router: Router, dialects: Dialects, metrics: Metrics, health: Health
    ) -> None:
        self._runtime = runtime
        self._proxy = proxy
        self._router = router
        self._dialects = dialects
        self._metrics = metrics
        self._health = health

    async def list_models(self, request: web.Request) -> object:
        """List the models that the key may use, with the prices that it pays. A client of an API that lists them in
        another way gets those that it can reach, in that API's shape."""
        principal = await self._caller(request)
        in_its_shape, dialect = self._list_of(request)
        routes, terms = self._router.entries(time.time()), self._terms(principal)
        shapes = (_model_shape(principal, route, in_its_shape, dialect, terms) for route in routes)
        found = [shape for shape in shapes if shape is not None]
        if in_its_shape is None:
            return ModelsShape(data=found)
        try:
            return in_its_shape.listed(found, request.query)
        except BadRequest as error:
            raise Refuse(refusals.bad_request(error.message, error.param)) from error

    async def get_model(self, request: web.Request) -> object:
        """Return one of these models."""
        principal = await self._caller(request)
        name = request.match_info["id"]
        in_its_shape, dialect = self._list_of(request)
        route = self._router.find(name, time.time())
        terms = self._terms(principal)
        shape = None if route is None else _model_shape(principal, route, in_its_shape, dialect, terms)
        if shape is None:
            raise Refuse(refusals.model_not_found(name))
        return shape if in_its_shape is None else in_its_shape.one(shape)

    def catalogue(self, plan: Plan | None) -> list[ModelShape]:
        """Return every model that has a price here, whoever may use it, at what a plan's accounts pay; None: at the
        providers' prices."""
        terms = _AT_COST if plan is None else _Terms(plan, with_row=self._with_cost)
        shapes = (_model_shape(None, route, None, "", terms) for route in self._router.entries(time.time()))
        return [shape for shape in shapes if shape is not None]

    @property
    def _with_cost(self) -> bool:
        return self._runtime.services.customers_see == "cost"

    def _terms(self, principal: Principal) -> _Terms:
        return _Terms(principal.plan, with_row=self._with_cost)

    def _list_of(self, request: web.Request) -> tuple[ModelList | None, str]:
        """Return how the caller's API lists models, None where as OpenAI's, and its dialect's name."""
        dialect = self._dialects.owner(request.path_qs, request.headers).name
        if dialect == OpenAIDialect.name and CLIENT_VERSION in request.query:
            return CodexModels(), dialect
        return MODEL_LISTS.get(dialect), dialect

    async def get_current_key(self, request: web.Request) -> KeyLimitsShape:
        """Return the key, and what is left of every window that applies to it."""
        principal = await self._caller(request)
        row = await self._runtime.api_keys.get(principal.key_id)
        return KeyLimitsShape.of(row, windows=await live_windows(self._runtime.engine, principal))

    async def get_generation(self, request: web.Request) -> ExplainedEventShape:
        """Return one request's usage event, with the lines of its charge, as soon as its answer is there."""
        principal = await self._caller(request)
        if BILLING_READ not in principal.scopes:
            raise Refuse(refusals.insufficient_scope(BILLING_READ, self._proxy.keys_url))
        request_id = request.match_info["id"]
        known = request_id.isprintable()  # Postgres takes no NUL
        found = await self._priced_event(request_id, principal.account_id) if known else None
        if found is None:
            raise Refuse(refusals.not_found(request.path))
        return ExplainedEventShape.of_explanation(explain(*found), with_cost=self._with_cost)

    async def _priced_event(self, request_id: str, account_id: str) -> PricedEvent | None:
        """Return a request's debit: from Postgres or, while it is on its way there, from Redis's journal."""
        runtime = self._runtime
        found = await runtime.reports.priced_event(request_id, account_id)
        if found is not None:
            return found
        debit = await settled_debit(runtime.engine.redis, account_id, request_id)
        if debit is not None:
            return await runtime.reports.priced_debit(debit)
        # The debit may have moved from the journal to Postgres between the two reads.
        return await runtime.reports.priced_event(request_id, account_id)

    async def _caller(self, request: web.Request) -> Principal:
        dialect = self._dialects.owner(request.path_qs, request.headers)
        key = key_of(request.headers, request.path_qs, dialect)
        return await self._proxy.admit(key, request.remote or "", request.headers)

    async def get_signing_keys(self, request: web.Request) -> web.Response:
        """Return the public keys that verify this gateway's own tokens (RFC 7517), the next one among them."""
        keys = [dict(each) for each in await self._runtime.services.sessions.published()]
        body = msgspec.json.encode(JwksShape(keys=keys))
        caching = {"Cache-Control": f"public, max-age={JWKS_AGE_S}"}
        return web.Response(body=body, content_type="application/json", headers=caching)

    async def get_health(self, request: web.Request) -> HealthShape:
        """Return whether the process answers, and what troubles it. Liveness: 200 as long as it answers at all."""
        troubles = self._health.everywhere()
        message = "; ".join(each.message for each in troubles)
        return HealthShape(status="degraded" if troubles else "ok", message=message)

    async def get_readiness(self, request: web.Request) -> HealthShape | web.Response:
        """Return whether it serves. 503 before it does and while it stops."""
        if self._health.ready:
            return HealthShape(status="ok")
        stopping = HealthShape(status="unavailable", message="starting or stopping")
        return web.Response(status=503, body=msgspec.json.encode(stopping), content_type="application/json")

    async def get_metrics(self, request: web.Request) -> web.Response:
        """Return Prometheus's metrics, summed over the workers."""
        return shown(self._metrics, request)


@dataclass(frozen=True, slots=True)
class _Terms:
    """For whom a price is quoted: the accounts of a plan, None for the provider's own price; and whether the row is
    named."""

    plan: Plan | None
    with_row: bool

    def markup_on(self, route: Candidate) -> int:
        """Return the markup on a model's price."""
        return 0 if self.plan is None else markup_of(route, self.plan.markup_of(route.entry))


_AT_COST: Final = _Terms(None, with_row=True)


def _model_shape(
    principal: Principal | None, route: Route, in_its_shape: ModelList | None, dialect: str, terms: _Terms
) -> ModelShape | None:
    """Return a model as it is listed; None where this key's requests, or everybody's, for it would be
    refused."""
    first = route.first
    rates = first.rates
    if rates is None or not is_priced_here(rates) or not (principal is None or principal.allows_model(route.entry)):
        return None
    row, markup_scaled = rates.row, terms.markup_on(first)
    shape = ModelShape(
        id=route.entry,
        created=int(datetime.combine(row.effective_from, datetime.min.time(), UTC).timestamp()),
        owned_by=first.provider.name,
        display_name=route.entry,
        max_output_tokens=first.max_output_tokens,
        context_length=row.context_window,
        context_window=row.context_window,
        pricing=PricingShape(
            usd_per_million={name: marked_up_usd(rate, markup_scaled) for name, rate in row.per_million.items()},
            usd_per_unit={name: marked_up_usd(rate, markup_scaled) for name, rate in row.per_unit.items()},
            price_id=row.id if terms.with_row else UNSET,
        ),
    )
    if in_its_shape is None or (dialect in route.served and in_its_shape.has(shape, writes=writes(rates))):
        return shape
    return None
