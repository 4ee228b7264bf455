"""The API as an aiohttp application: its routes, the OpenAPI document of them, and its outermost edge.

This file owns that every request has a time limit, that every failure is answered in the envelope, and that the
document (OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.0) describes what is served: paths, parameters, bodies,
answers, errors and who may call. Schemas are those of `billing.shapes`, by msgspec.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
from aiohttp import web

from billing.api import accounts, keys, reads, sums, usage
from billing.api.auth import ADMIN_HEADER
from billing.api.errors import BadRequest, error_response, of_failure
from billing.api.requests import AWAITS_BODY, BODY_TOO_SLOW
from billing.api.route import JSON, PREFIX, Access, Call, Route, serving
from billing.api.services import SERVICES, Services
from billing.api.tables import CSV, TIME_LIMIT
from billing.errors import LISTED
from billing.keys.presented import KEY_HEADERS
from billing.shapes.base import ErrorEnvelope
from billing.shapes.quotas import QuotaShape

ROUTES: Final[tuple[Route, ...]] = (*accounts.ROUTES, *keys.ROUTES, *usage.ROUTES, *sums.ROUTES, *reads.ROUTES)
"""Every endpoint of the billing API but its description."""
Json = dict[str, Any]
VERSION: Final = "3.1.0"
_DISTRIBUTION: Final = "metergate"
_SCHEMAS: Final = "#/components/schemas/{name}"
_IN_PATH: Final = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_ADMIN: Final = "adminKey"
_BEARER: Final = "bearer"
_ERRORS: Final = {
    400: "invalid_request_error: a body, query or bound; `param` names the field where it is known",
    401: "invalid_api_key: no key, or one that is wrong, revoked or expired",
    402: "billing_required: the balance does not cover the request, or the account may not spend",
    403: "insufficient_scope: the key lacks `required_scope`; or model_not_allowed",
    404: "not_found, or model_not_found: also what belongs to another account",
    409: "idempotency_conflict: the key was used for something else",
    413: "request_too_large: the body is above its bound",
    429: "too_many_attempts, quota_exceeded, capacity_held or concurrency_exceeded: wait",
    500: "server_error: a fault of the gateway",
    502: "upstream_error: the provider gave no usable answer",
    503: "temporarily_unavailable: a store is away; try again",
    504: "upstream_timeout: the provider was silent for too long",
}
_WAITS: Final = (429, 503)
"""Statuses that say when to try again."""
_ABOUT: Final = (
    "Under `/v1` the APIs of providers, metered; under `/api` the billing API. Money is a decimal string of USD, a "
    "time RFC 3339 in UTC. Fields may be added to answers. `/docs` says more."
)


def setup(app: web.Application, services: Services, beside: Sequence[Route] = ()) -> None:
    """Mount the API under /api of `app`, as an application of its own: its 404 and 405 have its envelope. `beside` are
    the endpoints that `app` serves itself, which /api/openapi.json describes, too: it is made at once then, and without
    them when it is asked for."""
    api = web.Application(middlewares=[error_middleware])
    api[SERVICES] = services
    described, document_made = _description(beside)
    if beside:
        document_made()
    for route in (*ROUTES, described):
        api.router.add_route(route.method, route.path.removeprefix(PREFIX), serving(route))
    app.add_subapp(PREFIX, api)


def _description(beside: Sequence[Route]) -> tuple[Route, Callable[[], bytes]]:
    """Return the endpoint that describes all others and itself, and what makes its answer."""

    @cache
    def described() -> bytes:
        return document((*beside, *ROUTES, route))

    async def openapi(call: Call) -> web.Response:
        """Return this document."""
        return web.Response(body=described(), content_type="application/json")

    route = Route("GET", f"{PREFIX}/openapi.json", openapi, Access.anyone, dict[str, Any])
    return route, described


_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}

_log = logging.getLogger(__name__)


@web.middleware
async def error_middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Run one handler within the time limit; what it raises becomes a response."""
    try:
        async with asyncio.timeout(request.config_dict[SERVICES].request_timeout_s) as limit:
            request[TIME_LIMIT] = limit
            return await handler(request)
    except web.HTTPException as error:
        return _of_http(request, error)
    except Exception as error:  # the outermost edge: nothing but the envelope may leave it
        slow_body = isinstance(error, TimeoutError) and request.get(AWAITS_BODY)
        refusal = BadRequest(BODY_TOO_SLOW) if slow_body else of_failure(error)
        if refusal is not None:
            return refusal.response()
        _log.exception("%s %s failed", request.method, request.path)
        return error_response(500, "server_error", "Something went wrong on our side; it has been noted.")


def _of_http(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """Return what aiohttp itself refuses: no such path, another method."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.method} is not allowed on this path; allowed: {allowed}."
        return error_response(405, _CODES[405], message, headers={"Allow": allowed})
    if error.status == web.HTTPNotFound.status_code:
        return error_response(404, _CODES[404], f"There is nothing at {request.path}. {LISTED}")
    code = _CODES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return error_response(error.status, code, error.reason)


def document(routes: Sequence[Route]) -> bytes:
    """Return the document of these routes as JSON. Raises `ValueError` for two of one name."""
    names = [route.name for route in routes]
    if len(set(names)) != len(names):
        raise ValueError("two routes have handlers of one name")
    shapes = [shape for route in routes for shape in (route.answer, route.query, route.body) if shape is not None]
    shapes = list(dict.fromkeys([*shapes, ErrorEnvelope, QuotaShape]))
    found, schemas = _components(tuple(shapes))
    by_shape = dict(zip(shapes, found, strict=True))
    queries = {by_shape[route.query]["$ref"].rpartition("/")[2] for route in routes if route.query is not None}
    paths: dict[str, Json] = {}
    for route in routes:
        path = _IN_PATH.sub(r"{\1}", route.path)
        operation = _operation(route, by_shape, schemas)
        paths.setdefault(path, {})[route.method.lower()] = operation
    return msgspec.json.encode(
        {
            "openapi": VERSION,
            "info": {"title": "Metergate", "version": _version(), "description": _ABOUT},
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": {name: schema for name, schema in schemas.items() if name not in queries},
                "securitySchemes": _security_schemes(),
            },
        }
    )


@cache
def _components(shapes: tuple[Any, ...]) -> tuple[tuple[Json, ...], Mapping[str, Json]]:
    """Return the schemas of shapes, which every application of a process shares, and what they refer to."""
    return msgspec.json.schema_components(shapes, ref_template=_SCHEMAS)


def _version() -> str:
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"


def _operation(route: Route, by_shape: dict[Any, Json], schemas: Mapping[str, Json]) -> Json:
    summary, _, rest = route.summary.partition(". ")
    parameters = [*_path_parameters(route.path)]
    if route.query is not None:
        parameters += _query_parameters(schemas[by_shape[route.query]["$ref"].rpartition("/")[2]])
    operation: Json = {
        "operationId": route.name,
        "summary": summary.rstrip("."),
        "tags": [route.tag],
        "security": _security(route),
        "parameters": parameters,
        "responses": _responses(route, by_shape),
    }
    if rest:
        operation["description"] = rest
    if route.body is not None:
        content = {JSON: {"schema": by_shape[route.body]}}
        operation["requestBody"] = {"required": not route.body_optional, "content": content}
    if route.scope is not None:
        operation["x-required-scope"] = route.scope
    return operation


def _path_parameters(path: str) -> Iterator[Json]:
    for name in _IN_PATH.findall(path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(schema: Json) -> Iterator[Json]:
    for name, field in schema["properties"].items():
        options = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
        own = options[0] if options else {key: value for key, value in field.items() if key != "default"}
        if field.get("default") is not None:
            own = {**own, "default": field["default"]}
        yield {"name": name, "in": "query", "required": False, "schema": own}


def _responses(route: Route, by_shape: dict[Any, Json]) -> Json:
    success: Json = {"description": "Done."}
    if route.answer is not None:
        success = {"description": "The answer.", "content": {route.media: {"schema": by_shape[route.answer]}}}
        if route.csv:
            success["content"][CSV] = {"schema": {"type": "string"}}
    responses = {str(route.status): success}
    for status in sorted(_statuses(route)):
        responses[str(status)] = refusal = {
            "description": _ERRORS[status],
            "content": {JSON: {"schema": by_shape[ErrorEnvelope]}},
        }
        if status in _WAITS:
            refusal["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds to wait"}}
    return responses


def _statuses(route: Route) -> Iterable[int]:
    """Return the statuses of refusals: those of the route, and those that follow from what it asks for."""
    found = set(route.errors)
    if route.access is not Access.anyone:
        found |= {401, 429, 500, 503}
    if route.query is not None or route.body is not None:
        found.add(400)
    if route.body is not None:
        found.add(413)
    if _IN_PATH.search(route.path):
        found.add(404)
    if route.scope is not None:
        found.add(403)
    return found


def _security(route: Route) -> list[Json]:
    if route.access is Access.admin:
        return [{_ADMIN: []}, {_BEARER: []}] if route.or_bearer else [{_ADMIN: []}]
    return [{name: []} for name in (_BEARER, *KEY_HEADERS)] if route.access is Access.key else []


def _security_schemes() -> Json:
    schemes: Json = {
        _BEARER: {"type": "http", "scheme": "bearer", "description": "an API key, mg_...; at /metrics the admin key"},
        _ADMIN: {"type": "apiKey", "in": "header", "name": ADMIN_HEADER, "description": "the variable ADMIN_API_KEY"},
    }
    for name in KEY_HEADERS:
        schemes[str(name)] = {"type": "apiKey", "in": "header", "name": str(name), "description": "as the bearer"}
    return schemes
