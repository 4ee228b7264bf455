"""Anthropic's format, what the gateway answers by itself: errors, and the list of models.

Error object: https://docs.anthropic.com/en/api/errors. Its SDKs choose the class of an exception by the status, show
`error.message`, and read the request's id from the header `request-id`. List:
https://docs.anthropic.com/en/api/models-list.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.dialects.anthropic.declared import REQUEST_ID
from gateway.dialects.exceptions import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.dialects.base import ListedModel, RefusalFacts

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
DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 1_000


def error_body(refusal: RefusalFacts, request_id: str) -> bytes:
    """Return `{"type": "error", "error": {type, message, code, ...}, "request_id"}`; `code` is the gateway's own."""
    other = "api_error" if refusal.status >= _SERVER_ERRORS else "invalid_request_error"
    error = {"type": _TYPES.get(refusal.status, other), "message": refusal.message, "code": refusal.code}
    if refusal.param is not None:
        error["param"] = refusal.param
    return msgspec.json.encode({"type": "error", "error": {**refusal.extra, **error}, "request_id": request_id})


def error_headers(request_id: str, refusal: RefusalFacts | None = None) -> Mapping[str, str]:
    """Return the request's id under the name by which Anthropic's clients show it."""
    return {REQUEST_ID: request_id}


class AnthropicModels:
    """How Anthropic's API lists models; a `ModelList`."""

    paths: Final = ()

    def has(self, model: ListedModel, *, writes: bool) -> bool:
        """Return whether it writes messages."""
        return writes

    def listed(self, models: Sequence[ListedModel], query: Mapping[str, str]) -> object:
        """Return one page, by `limit` and `after_id` or `before_id`. Raises `BadRequest`."""
        limit, names = _limit(query), [model.id for model in models]
        if "before_id" in query:
            end = _place(names, query, "before_id")
            page = models[max(0, end - limit) : end]
            has_more = end > limit
        else:
            start = _place(names, query, "after_id") + 1 if "after_id" in query else 0
            page = models[start : start + limit]
            has_more = start + limit < len(models)
        return {
            "data": [self.one(model) for model in page],
            "has_more": has_more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }

    def one(self, model: ListedModel) -> object:
        """Return one model."""
        return {
            "type": "model",
            "id": model.id,
            "display_name": model.id,
            "created_at": datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifecycle": "active",
            "max_input_tokens": model.context_window,
            "max_tokens": model.max_output_tokens,
        }


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and 1 <= int(text) <= MAX_LIMIT):
        raise BadRequest(f"Invalid value for 'limit': expected an integer from 1 to {MAX_LIMIT}.", "limit")
    return int(text)


def _place(names: Sequence[str], query: Mapping[str, str], name: str) -> int:
    if query[name] not in names:
        raise BadRequest(f"Invalid value for '{name}': there is no such model here.", name)
    return names.index(query[name])
