"""Errors of the billing API: OpenAI's envelope, `{"error": {"message", "type", "param", "code", ...}}`.

ApiError                 a refusal with its status, code and headers
+-- BadRequest           400 invalid_request_error: a body, query or bound; `param` names the field
+-- Unauthorized         401 invalid_api_key: no key, or one that is wrong, revoked or expired
+-- InsufficientScope    403 insufficient_scope: with `required_scope`
+-- NotFound             404 not_found: also what belongs to another account
+-- Conflict             409 idempotency_conflict
+-- TooLarge             413 request_too_large
+-- TooMany              429 too_many_attempts: with Retry-After
+-- Unavailable          503 temporarily_unavailable: with Retry-After

`of_failure` says which of them an exception of `billing` is. Messages never hold a secret or an internal name.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

import msgspec
from aiohttp import web

from billing.accounts.accounts import AccountNotFound, UnknownPlan
from billing.accounts.grants import BalanceOutOfBounds, IdempotencyConflict
from billing.attempts import TooManyAttempts
from billing.database.connection import DatabaseUnavailable
from billing.errors import MetergateError
from billing.keys.rows import KeyNotFound, KeyRefused
from billing.pages import BadCursor
from billing.quotas import QuotaError

RETRY_AFTER_S: Final = 1
_SERVER_ERROR: Final = 500


def error_body(code: str, message: str, *, type_: str, param: str | None = None, **more: object) -> bytes:
    """The envelope as JSON; `more` stands inside `error`."""
    return msgspec.json.encode({"error": {"message": message, "type": type_, "param": param, "code": code, **more}})


class ApiError(MetergateError):
    """A refusal. `more` stands inside `error`."""

    status: ClassVar[int] = _SERVER_ERROR
    code: ClassVar[str] = "server_error"
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, message: str, param: str | None = None, **more: object) -> None:
        super().__init__(message)
        self.message, self.param, self.more = message, param, more

    def response(self) -> web.Response:
        return error_response(
            self.status, self.code, self.message, headers=self.headers, param=self.param, more=self.more
        )


class BadRequest(ApiError):
    status, code = 400, "invalid_request_error"


class Unauthorized(ApiError):
    status, code = 401, "invalid_api_key"


class InsufficientScope(ApiError):
    status, code = 403, "insufficient_scope"


class NotFound(ApiError):
    status, code = 404, "not_found"


class Conflict(ApiError):
    status, code = 409, "idempotency_conflict"


class TooLarge(ApiError):
    status, code = 413, "request_too_large"


class TooMany(ApiError):
    status, code = 429, "too_many_attempts"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after_s)}


class Unavailable(ApiError):
    status, code = 503, "temporarily_unavailable"
    headers = MappingProxyType({"Retry-After": str(RETRY_AFTER_S)})


def of_failure(error: Exception) -> ApiError | None:
    """What an exception of `billing` answers; None for one that nobody expects."""
    match error:
        case AccountNotFound() | KeyNotFound():
            return NotFound(str(error))
        case UnknownPlan():
            return BadRequest(str(error), "plan")
        case KeyRefused():
            return BadRequest(str(error), error.field)
        case QuotaError():
            return BadRequest(str(error), "quotas")
        case BalanceOutOfBounds():
            return BadRequest(str(error), "amount_usd")
        case BadCursor():
            return BadRequest(str(error), "cursor")
        case IdempotencyConflict():
            return Conflict(str(error), "idempotency_key")
        case TooManyAttempts():
            return TooMany(str(error), error.retry_after_s)
        case DatabaseUnavailable():
            return Unavailable("The billing database is temporarily unavailable; try again.")
        case TimeoutError():
            return Unavailable("The request took too long; try again.")
    return None


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    param: str | None = None,
    more: Mapping[str, object] | None = None,
) -> web.Response:
    """A response with the envelope; `type` follows from the status."""
    type_ = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
    return web.Response(
        status=status,
        body=error_body(code, message, type_=type_, param=param, **(more or {})),
        content_type="application/json",
        headers=headers,
    )
