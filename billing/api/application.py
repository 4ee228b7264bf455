"""The API as an aiohttp application: its routes, and its outermost edge, one middleware.

This file owns that every request has a time limit, and that every failure is answered in the envelope.

The API's outermost edge: a time limit for every request, and every failure answered in the envelope."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, Final

from aiohttp import web

from billing.api import accounts, keys, operation, reads
from billing.api.errors import BadRequest, error_response, of_failure
from billing.api.openapi import document
from billing.api.requests import AWAITS_BODY, BODY_TOO_SLOW
from billing.api.route import PREFIX, Access, Call, Route, serving
from billing.api.services import SERVICES, Services
from billing.errors import LISTED

ROUTES: Final[tuple[Route, ...]] = (*accounts.ROUTES, *keys.ROUTES, *reads.ROUTES, *operation.ROUTES)
"""Every endpoint of the billing API but its description."""


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
        async with asyncio.timeout(request.config_dict[SERVICES].request_timeout_s):
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
