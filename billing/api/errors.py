"""Errors of the billing API: OpenAI's envelope, `{"error": {"message", "type", "param", "code", ...}}`.

ApiError                 a refusal with its status, code and headers
+-- BadRequest           400 invalid_request_error: a body, query or bound; `param` names the field
+-- Unpriced             400 model_not_priced: the table of prices has no row for it
+-- Unauthorized         401 invalid_api_key: no key, or one that is wrong, revoked or expired
+-- InsufficientScope    403 insufficient_scope: with `required_scope`
+-- NotFound             404 not_found: also what belongs to another account
+-- Conflict             409 idempotency_conflict
+-- TooLarge             413 request_too_large
+-- TooMany              429 too_many_attempts: with Retry-After
+-- QuotaExceeded        429 quota_exceeded: with `quota` and `upgrade`
+-- Unavailable          503 temporarily_unavailable: with Retry-After

`of_failure` says which of them an exception of `billing` is, by its `kind`. Messages never hold a secret or an internal
name.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from aiohttp import web

from billing.database.connection import DatabaseUnavailable
from billing.errors import MetergateError
from billing.schemas.base import error_body

RETRY_AFTER_S: Final = 1
_SERVER_ERROR: Final = 500


class ApiError(MetergateError):
    """A refusal. `more` are further fields of the body's `error`."""

    status: ClassVar[int] = _SERVER_ERROR
    code: ClassVar[str] = "server_error"
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, message: str, param: str | None = None, **more: object) -> None:
        super().__init__(message)
        self.message, self.param, self.more = message, param, more

    @property
    def type(self) -> str:
        """Return the envelope's `type`, which follows from the status."""
        return _type_of(self.status)

    def response(self) -> web.Response:
        """Return the refusal as an answer."""
        return error_response(
            self.status, self.code, self.message, headers=self.headers, param=self.param, more=self.more
        )


class BadRequest(ApiError):
    """A body, a query or a bound that is wrong."""

    status, code = 400, "invalid_request_error"


class Unpriced(ApiError):
    """A meter or a model without a price."""

    status, code = 400, "model_not_priced"


class Unauthorized(ApiError):
    """No key, or one that is wrong, revoked or expired."""

    status, code = 401, "invalid_api_key"


class InsufficientScope(ApiError):
    """A key without the scope that the route needs."""

    status, code = 403, "insufficient_scope"


class NotFound(ApiError):
    """Nothing there, or what belongs to another account."""

    status, code = 404, "not_found"


class Conflict(ApiError):
    """An idempotency key that was used for something else."""

    status, code = 409, "idempotency_conflict"


class TooLarge(ApiError):
    """A body above its bound."""

    status, code = 413, "request_too_large"


class TooMany(ApiError):
    """An address that has shown too many wrong keys."""

    status, code = 429, "too_many_attempts"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after_s)}


class QuotaExceeded(ApiError):
    """Units of a feature that are used up, or were never there: nothing clears within a minute, as clients are told."""

    status, code = 429, "quota_exceeded"
    headers = MappingProxyType({"x-should-retry": "false"})


class Unavailable(ApiError):
    """A store that is away."""

    status, code = 503, "temporarily_unavailable"
    headers = MappingProxyType({"Retry-After": str(RETRY_AFTER_S)})


_OF_KIND: Final[Mapping[str, type[ApiError]]] = {
    "unauthorized": Unauthorized,
    "not_found": NotFound,
    "invalid": BadRequest,
    "conflict": Conflict,
    "not_priced": Unpriced,
    "unavailable": Unavailable,
}


def of_failure(error: Exception) -> ApiError | None:
    """Return what an exception is answered with; None for one that was not foreseen."""
    match error:
        case ApiError():
            return error
        case DatabaseUnavailable():
            return Unavailable("The billing database is temporarily unavailable; try again.")
        case TimeoutError():
            return Unavailable("The request took too long; try again.")
        case MetergateError(kind="too_many"):
            return TooMany(str(error), error.retry_after_s or RETRY_AFTER_S)
        case MetergateError(kind="forbidden"):
            return InsufficientScope(str(error), required_scope=error.required_scope)
        case MetergateError(kind=str(kind)):
            return _OF_KIND[kind](str(error), error.field)
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
    """Return a response with the envelope."""
    return web.Response(
        status=status,
        body=error_body(code, message, type_=_type_of(status), param=param, **(more or {})),
        content_type="application/json",
        headers=headers,
    )


def _type_of(status: int) -> str:
    return "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
