"""The table of what the gateway serves beside the billing API, and the answer where nothing is.

The table has the metered endpoints, and the gateway's own, of which `/api/openapi.json` is made.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from billing.api.auth import BILLING_READ
from billing.api.operation import Access, Operation, operation
from billing.api.requests import ApiError
from billing.api.route import ACTOR, PREFIX, Call, HttpHandler, Route, admit_admin
from billing.api.route import REQUEST_ID as CALLED
from billing.errors import StoreError
from billing.identity.providers import CONSOLE
from billing.schemas.keys import KeyLimitsShape
from billing.schemas.people import JwksShape
from billing.schemas.system import CollectBody, HealthShape, JobShape, ModelShape, ModelsShape, ReconcileBody
from billing.schemas.usage import ExplainedEventShape
from gateway.auth import attempts_refused
from gateway.dialects.openai_responses.request import RESPONSES
from gateway.dialects.registry import MODEL_LISTS, why_unmetered
from gateway.endpoints.site import add_site, get_docs
from gateway.server import refusals
from gateway.server.caching import PRIVATE
from gateway.server.edge import route_of
from gateway.server.ids import REQUEST_ID
from gateway.server.plain import expected
from gateway.server.refusals import Refusal, Refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from billing.api.services import Services
    from gateway.dialects.registry import Dialects
    from gateway.endpoints.jobs import Jobs
    from gateway.endpoints.reads import Reads
    from gateway.endpoints.response_sockets import ResponseSockets
    from gateway.proxy.handler import Proxy

logger = logging.getLogger(__name__)

SOCKET: Final = ("GET", RESPONSES)
# What every path of the proxy begins with.
API: Final = "v1"
PROXY_SCOPE: Final = "llm:proxy"
METERED_ERRORS: Final = (400, 402, 403, 404, 413, 429, 502, 503, 504)
METRICS_HINT: Final = "METRICS_ADDR is for reading metrics without."
Described = Operation[..., Any]
_NO_LETTER: Final = re.compile(r"[^A-Za-z0-9]+")
# A body or answer as the provider's API has it, refusals too: the headers say whose.
_PROVIDERS_OWN: Final = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What is served beside the billing API: `own` by the gateway itself, `metered` by the proxy."""

    own: tuple[Route, ...]
    metered: tuple[Route, ...]

    @property
    def all(self) -> tuple[Route, ...]:
        """Return every route."""
        return (*self.metered, *self.own)


def endpoints_of(proxy: Proxy, reads: Reads, jobs: Jobs, dialects: Dialects) -> Endpoints:
    """Return the table."""
    return Endpoints(_own(reads, jobs), _metered(proxy, dialects))


def _own(reads: Reads, jobs: Jobs) -> tuple[Route, ...]:
    routes: list[Route] = []
    # The latter two are what Azure's clients ask.
    for path, suffix in (("/v1/models", ""), ("/openai/models", "_azure"), ("/openai/v1/models", "_azure_v1")):
        for below, handler, shape in (("", reads.list_models, ModelsShape), ("/{id:.+}", reads.get_model, ModelShape)):
            name = f"{handler.__name__}{suffix}"
            models = operation("GET", path + below, shape, who=Access.key, refusal=_PROVIDERS_OWN, name=name)
            routes.append(Route(models, handler))
    for path in (path for models in MODEL_LISTS.values() for path in models.paths):
        for whole, handler in ((path, reads.list_models), (f"{path}/{{id:[^:]+}}", reads.get_model)):
            name = _NO_LETTER.sub("_", whole).strip("_")
            routes.append(
                Route(
                    operation("GET", whole, _PROVIDERS_OWN, who=Access.key, refusal=_PROVIDERS_OWN, name=name), handler
                )
            )
    return (
        *routes,
        Route(operation("GET", "/v1/key", KeyLimitsShape, who=Access.key), reads.get_current_key),
        Route(
            operation("GET", "/v1/generations/{id}", ExplainedEventShape, who=Access.key, scope=BILLING_READ),
            reads.get_generation,
        ),
        Route(operation("GET", "/v1/status", JobShape), jobs.get_job_status),
        Route(operation("POST", "/v1/jobs/reconcile", JobShape, ReconcileBody, optional=True), jobs.run_reconcile),
        Route(
            operation("POST", "/v1/jobs/collect-and-rate", JobShape, CollectBody, optional=True, errors=(503,)),
            jobs.run_collect,
        ),
        Route(operation("GET", "/docs", str, who=Access.anyone, media="text/html"), get_docs),
        Route(
            operation("GET", "/.well-known/jwks.json", JwksShape, who=Access.anyone, errors=(503,)),
            reads.get_signing_keys,
        ),
        Route(operation("GET", "/healthz", HealthShape, who=Access.anyone), reads.get_health),
        Route(operation("GET", "/health", HealthShape, who=Access.anyone, name="get_health_too"), reads.get_health),
        Route(operation("GET", "/readyz", HealthShape, who=Access.anyone, errors=(503,)), reads.get_readiness),
        Route(
            operation("GET", "/metrics", str, media="text/plain", or_bearer=True, hint=METRICS_HINT),
            reads.get_metrics,
        ),
    )


def _metered(proxy: Proxy, dialects: Dialects) -> tuple[Route, ...]:
    routes: list[Route] = []
    for method, path in sorted(dialects.routes()):
        if (method, path) != SOCKET:  # which OpenAPI has no words for
            metered: Described = Operation(
                method=method,
                path=path,
                answer=_PROVIDERS_OWN,
                refusal=_PROVIDERS_OWN,
                who=Access.key,
                body=_PROVIDERS_OWN if method == "POST" else None,
                scope=PROXY_SCOPE,
                errors=METERED_ERRORS,
                name=_name(method, path),
                summary="Have a provider answer, metered. Body and answer are as its API has them, streams too.",
            )
            routes.append(Route(metered, proxy.handle))
    return tuple(routes)


def _name(method: str, path: str) -> str:
    """Return the name of an operation; that of a POST is its path alone."""
    return ("" if method == "POST" else f"{method.lower()}_") + _NO_LETTER.sub("_", path).strip("_")


def add_routes(
    app: web.Application,
    endpoints: Endpoints,
    proxy: Proxy,
    dialects: Dialects,
    services: Services,
    sockets: ResponseSockets,
) -> None:
    """Add the gateway's own routes to those of the billing API, which is mounted before."""
    known: list[web.AbstractResource] = []
    unknown = _unknown(known, proxy, dialects)
    for route in endpoints.own:
        add = app.router.add_get if route.operation.method == "GET" else app.router.add_post
        add(route.operation.path, _serving(route, proxy, dialects, services))
    for route in endpoints.metered:
        method, path = route.operation.method, route.operation.path
        app.router.add_route(method, path, route_of(proxy.handle, dialects.find, unknown), expect_handler=expected)
    app.router.add_route(*SOCKET, sockets.serve)
    add_site(app)
    known += [resource for resource in app.router.resources() if resource.canonical not in (PREFIX, CONSOLE)]
    app.router.add_route("*", "/{path:(?s:.*)}", unknown)


def _serving(route: Route, proxy: Proxy, dialects: Dialects, services: Services) -> HttpHandler:
    """Return the aiohttp handler of one of the gateway's own routes, which refuses as the proxy does, in the envelope
    of the API that the request is of."""
    declared = route.operation

    async def serve(request: web.Request) -> web.StreamResponse:
        request_id = proxy.new_id()
        envelope = dialects.owner(request.path_qs, request.headers)
        try:
            with attempts_refused():
                if declared.who is Access.admin:
                    request[CALLED] = request_id
                    request[ACTOR] = Call(request, services, await admit_admin(declared, request, services)).actor
                found = await route.handler(request)
        except Refuse as refused:
            return proxy.count(refused.refusal).response(request_id, envelope)
        except ApiError as error:  # of the admin key, or of a body, which is read as the billing API reads its own
            return proxy.count(_of_api_error(error)).response(request_id, envelope)
        except StoreError:
            return proxy.count(refusals.unavailable()).response(request_id, envelope)
        except Exception:
            logger.exception("request %s failed", request_id)
            return proxy.count(refusals.unavailable()).response(request_id, envelope)
        answer = found if isinstance(found, web.StreamResponse) else _json(found)
        if declared.who is not Access.anyone:
            answer.headers.update(PRIVATE)
        answer.headers[REQUEST_ID] = request_id
        answer.headers.update(envelope.error_headers(request_id))
        return answer

    return serve


def _of_api_error(error: ApiError) -> Refusal:
    """Return the refusal that the billing API answers so."""
    return Refusal(
        error.status,
        error.code,
        error.message,
        type=error.type,
        param=error.param,
        extra=error.more,
        sent=error.headers,
    )


def _json(shape: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(shape), content_type="application/json")


def _unknown(known: list[web.AbstractResource], proxy: Proxy, dialects: Dialects) -> HttpHandler:
    """Return what answers where nothing is: 404 with the reason or the path that was meant, or 405 with the methods
    of this one. `known` are all resources, and may be filled later."""

    async def unknown(request: web.Request) -> web.StreamResponse:
        if request.path == "/" and "text/html" in request.headers.get("Accept", ""):
            return web.Response(status=303, headers={"Location": f"{CONSOLE.removeprefix('/')}/"})  # somebody looks
        envelope = dialects.owner(request.path_qs, request.headers)
        allowed: set[str] = set()
        for resource in known:
            _, methods = await resource.resolve(request)
            allowed |= methods
        reason = why_unmetered(request.method, request.path)
        meant = None if allowed else await _meant(request, known)
        if reason is not None and meant is None:
            refusal = refusals.unmetered(request.path, reason)
        elif allowed:
            refusal = refusals.method_not_allowed(request.method, request.path, allowed)
        else:
            refusal = refusals.not_found(request.path, meant)
        return proxy.count(refusal).response(proxy.new_id(), envelope)

    return unknown


async def _meant(request: web.Request, known: Iterable[web.AbstractResource]) -> str | None:
    """Return the path that a request to nothing was meant for: with `/v1` before it once, and no slash too many."""
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
