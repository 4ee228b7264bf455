"""Gemini's format, what the gateway answers by itself: errors (https://google.aip.dev/193), and the list of models
(https://ai.google.dev/api/models).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.gemini.names import COUNT, EMBED, EMBED_BATCH, GENERATE, STREAM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.dialects.base import FinalQuotaFacts, ListedModel, RefusalFacts

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
DOMAIN: Final = "metergate"
# Gemini CLI 0.61.0 asks again for 227 s (10 requests), silently, unless an error says that this is in vain; with either
# of these it stops after one request, within 3 s. A RetryInfo of more than 300 s has it show the message, with its
# address. A quotaId with PerDay has it say "You have exhausted your daily quota on this model" in place of the message:
# so that is for quotas that reset sooner, or never.
LONG_S: Final = 300
PER_DAY: Final = "PerDay"
DEFAULT_SIZE: Final = 50
MAX_SIZE: Final = 1_000
_PREFIX: Final = "models/"
# Stands in the name of a model that embeds and writes nothing.
_EMBEDDING: Final = "embedding"


def error_body(refusal: RefusalFacts, request_id: str) -> bytes:
    """Return `{"error": {code, message, status, details, ...}}`: why, in ErrorInfo; which field, in BadRequest; which
    quota, in QuotaFailure; when to ask again, in RetryInfo."""
    info = {"code": refusal.code, "request_id": request_id}
    details: list[dict[str, object]] = [
        {"@type": _TYPE + "ErrorInfo", "reason": refusal.code.upper(), "domain": DOMAIN, "metadata": info}
    ]
    if refusal.param is not None:
        violation = {"field": refusal.param, "description": refusal.message}
        details.append({"@type": _TYPE + "BadRequest", "fieldViolations": [violation]})
    if refusal.final is not None:
        details.append(_quota_failure(refusal.final, refusal.message))
    delay_s = refusal.retry_after_s if refusal.final is None else refusal.final.wait_s
    if delay_s is not None:
        details.append({"@type": _TYPE + "RetryInfo", "retryDelay": f"{delay_s}s"})
    error = {
        "code": refusal.status,
        "message": refusal.message,
        "status": _STATUS.get(refusal.status, "UNKNOWN"),
        "details": details,
        **refusal.extra,
    }
    return msgspec.json.encode({"error": error})


def _quota_failure(quota: FinalQuotaFacts, message: str) -> dict[str, object]:
    """Return which quota refuses, so that clients don't ask again by themselves."""
    waits = quota.wait_s is not None and quota.wait_s > LONG_S
    violation = {
        "subject": quota.subject,
        "description": message,
        "quotaMetric": f"{DOMAIN}/{quota.metric}",
        "quotaId": quota.name if waits else f"{quota.name}-{PER_DAY}",
    }
    return {"@type": _TYPE + "QuotaFailure", "violations": [violation]}


class GeminiModels:
    """How Gemini's API lists models; a `ModelList`."""

    paths: Final = ("/v1beta/models",)

    def has(self, model: ListedModel, *, writes: bool) -> bool:
        """Return whether it writes or embeds."""
        return writes or _EMBEDDING in model.id

    def listed(self, models: Sequence[ListedModel], query: Mapping[str, str]) -> object:
        """Return one page, by `pageSize` and `pageToken`, which is the name of its first model. Raises `BadRequest`."""
        start, size = _start(models, query.get("pageToken", "")), _size(query.get("pageSize", ""))
        end = start + size
        more = {"nextPageToken": models[end].id} if end < len(models) else {}
        return {"models": [self.one(model) for model in models[start:end]], **more}

    def one(self, model: ListedModel) -> object:
        """Return one model."""
        methods = [EMBED, EMBED_BATCH] if _EMBEDDING in model.id else [GENERATE, STREAM]
        limits = {"inputTokenLimit": model.context_window, "outputTokenLimit": model.max_output_tokens}
        return {
            "name": _PREFIX + model.id,
            "version": model.id,
            "displayName": model.id,
            **{name: limit for name, limit in limits.items() if limit is not None},
            "supportedGenerationMethods": [*methods, COUNT],
        }


def _size(digits: str) -> int:
    if digits in ("", "0"):
        return DEFAULT_SIZE
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_SIZE)) and int(digits) <= MAX_SIZE):
        raise BadRequest(f"Invalid value for 'pageSize': expected an integer from 1 to {MAX_SIZE}.", "pageSize")
    return int(digits)


def _start(models: Sequence[ListedModel], token: str) -> int:
    names = [model.id for model in models]
    if token and token not in names:
        raise BadRequest("Invalid value for 'pageToken': take the one of the last page.", "pageToken")
    return names.index(token) if token else 0
