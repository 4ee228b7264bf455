"""The API as an aiohttp application: its routes, what describes them, and its outermost edge.

This file owns that every request has a time limit, that every failure is answered in the envelope, and that no answer
is framed, sniffed or kept by a browser.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from billing.api import (
    accounts,
    credit,
    directories,
    keys,
    metering,
    organizations,
    oversight,
    payments,
    people,
    revenue,
    traffic,
    usage,
    webhooks_out,
)
from billing.api.openapi import check_names, document
from billing.api.operation import Access, operation
from billing.api.operations import OPERATIONS
from billing.api.requests import AWAITS_BODY, BODY_TOO_SLOW, BadRequest, error_response, of_failure
from billing.api.route import (
    PREFIX,
    REQUEST_ID,
    REQUEST_ID_HEADER,
    TIME_LIMIT,
    Call,
    Route,
    in_parts,
    routes_of,
    serving,
)
from billing.api.scim import setup_scim
from billing.api.services import SERVICES, Services
from billing.errors import LISTED
from billing.logs import log_about

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

# Every endpoint of the billing API but its description.
ROUTES: Final = routes_of(
    OPERATIONS,
    (
        accounts,
        credit,
        directories,
        keys,
        metering,
        organizations,
        oversight,
        payments,
        people,
        revenue,
        traffic,
        usage,
        webhooks_out,
    ),
)
BILLING: Final = "/billing/"
# Before the paths of a customer's billing, which some clients know under /api/v1/billing: it answers there, too.
VERSION: Final = "/v1"
# A client's own id of a request: it is answered and audited, and identifies nothing else.
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}", re.ASCII)


def setup(app: web.Application, services: Services, beside: Sequence[Route] = ()) -> None:
    """Mount the API under /api of `app`, and SCIM, as applications of their own: a 404 and 405 has its form. `beside`
    are the endpoints that `app` serves itself, which /api/openapi.json describes, too. Raises `ValueError` for two of
    one name."""
    api = web.Application(middlewares=[error_middleware])
    api[SERVICES] = services
    api.on_response_prepare.extend((_identified, _secured))
    app[DESCRIBED], descriptions = _descriptions(beside)
    check_names((*beside, *ROUTES, *descriptions))
    for route in (*ROUTES, *descriptions):
        method, handler = route.operation.method, serving(route)
        path = route.operation.path.removeprefix(PREFIX)
        for each in (path, f"{VERSION}{path}") if path.startswith(BILLING) else (path,):
            if method == "GET":
                api.router.add_get(each, handler)  # and HEAD
            else:
                api.router.add_route(method, each, handler)
    app.add_subapp(PREFIX, api)
    setup_scim(app, services)


def _descriptions(beside: Sequence[Route]) -> tuple[Callable[[], bytes], tuple[Route, ...]]:
    """Return what makes the OpenAPI document, once, and the endpoints that describe all others and themselves. It is
    made when it is first asked for, beside the event loop: most processes are never asked."""

    @cache
    def described() -> bytes:
        return document((*beside, *ROUTES, *routes))

    async def openapi(call: Call) -> web.Response:
        """Return this document."""
        return in_parts(await asyncio.to_thread(described), "application/json")

    async def docs(call: Call) -> web.Response:
        """Lead to this document as pages to read, and to try."""
        return web.Response(status=303, headers={"Location": "../docs/reference"})

    routes = (
        Route(operation("GET", f"{PREFIX}/openapi.json", dict[str, Any], who=Access.anyone), openapi),
        Route(operation("GET", f"{PREFIX}/docs", str, who=Access.anyone, media="text/html"), docs),
    )
    return described, routes


# The OpenAPI document, for the pages of the reference.
DESCRIBED: Final[web.AppKey[Callable[[], bytes]]] = web.AppKey("described")
# What every answer tells browsers that says nothing else (https://owasp.org/www-project-secure-headers/).
_SECURED: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


async def _secured(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _SECURED.items():
        response.headers.setdefault(name, value)


_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}

_log = logging.getLogger(__name__)


async def _identified(request: web.Request, response: web.StreamResponse) -> None:
    """Give the answer the id that the audit log has of the request."""
    if REQUEST_ID in request:
        response.headers[REQUEST_ID_HEADER] = request[REQUEST_ID]


@web.middleware
async def error_middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Run one handler within the time limit; what it raises becomes a response. The request gets its id."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    request[REQUEST_ID] = given if _GIVEN_ID.fullmatch(given) else request.config_dict[SERVICES].new_id()
    log_about(request[REQUEST_ID])
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
        resource = request.match_info.route.resource  # the path itself may hold the token of an invitation
        _log.exception("%s %s failed", request.method, "a path" if resource is None else resource.canonical)
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
