"""Gemini's format, errors: the envelope that Google's clients expect (https://google.aip.dev/193)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from gateway.dialects.base import RefusalFacts

_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPE: Final = "type.googleapis.com/google.rpc."
_NO_HEADERS: Final[Mapping[str, str]] = {}
DOMAIN: Final = "metergate"


def error_body(refusal: RefusalFacts, request_id: str) -> bytes:
    """Return `{"error": {code, message, status, details, ...}}`: why, in ErrorInfo; which field, in BadRequest; when to
    ask again, in RetryInfo."""
    info = {"code": refusal.code, "request_id": request_id}
    details: list[dict[str, object]] = [
        {"@type": _TYPE + "ErrorInfo", "reason": refusal.code.upper(), "domain": DOMAIN, "metadata": info}
    ]
    if refusal.param is not None:
        violation = {"field": refusal.param, "description": refusal.message}
        details.append({"@type": _TYPE + "BadRequest", "fieldViolations": [violation]})
    if refusal.retry_after_s is not None:
        details.append({"@type": _TYPE + "RetryInfo", "retryDelay": f"{refusal.retry_after_s}s"})
    error = {
        "code": refusal.status,
        "message": refusal.message,
        "status": _STATUS.get(refusal.status, "UNKNOWN"),
        "details": details,
        **refusal.extra,
    }
    return msgspec.json.encode({"error": error})


def error_headers(request_id: str) -> Mapping[str, str]:
    """Return no further headers."""
    return _NO_HEADERS
