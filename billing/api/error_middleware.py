"""The API's outermost edge: a time limit for every request, and every failure answered in the envelope."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from billing.api.errors import ApiError, BadRequest, error_response, of_failure
from billing.api.requests import AWAITS_BODY, BODY_TOO_SLOW
from billing.api.services import SERVICES

_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}

LISTED: Final = "GET /docs lists the endpoints."

_log = logging.getLogger(__name__)


@web.middleware
async def edge(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Runs one handler; what it raises becomes a response."""
    try:
        async with asyncio.timeout(request.config_dict[SERVICES].request_timeout_s):
            return await handler(request)
    except ApiError as error:
        return error.response()
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
    """What aiohttp itself refuses: no such path, another method."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.method} is not allowed on this path; allowed: {allowed}."
        return error_response(405, _CODES[405], message, headers={"Allow": allowed})
    if error.status == web.HTTPNotFound.status_code:
        return error_response(404, _CODES[404], f"There is nothing at {request.path}. {LISTED}")
    code = _CODES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return error_response(error.status, code, error.reason)
