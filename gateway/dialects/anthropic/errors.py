"""Anthropic's format, errors: the envelope that its clients expect.

Error object: https://docs.anthropic.com/en/api/errors. Its SDKs choose the class of an exception by the status, show
`error.message`, and read the request's id from the header `request-id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from gateway.dialects.base import RefusalFacts

_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_SERVER_ERRORS: Final = 500
REQUEST_ID: Final = "request-id"
"""The name under which Anthropic's clients show a request's id."""


def error_body(refusal: RefusalFacts, request_id: str) -> bytes:
    """Return `{"type": "error", "error": {type, message, code, ...}, "request_id"}`; `code` is the gateway's own."""
    other = "api_error" if refusal.status >= _SERVER_ERRORS else "invalid_request_error"
    error = {"type": _TYPES.get(refusal.status, other), "message": refusal.message, "code": refusal.code}
    if refusal.param is not None:
        error["param"] = refusal.param
    return msgspec.json.encode({"type": "error", "error": {**refusal.extra, **error}, "request_id": request_id})


def error_headers(request_id: str) -> Mapping[str, str]:
    """Return the request's id under the name by which Anthropic's clients show it."""
    return {REQUEST_ID: request_id}
