"""Gemini's own API: its endpoints, and the few fields of a request that the gateway changes. And what the gateway
answers by itself: errors (https://google.aip.dev/193), and the list of models (https://ai.google.dev/api/models).

Source: https://ai.google.dev/api. The model and what is done stand in the path, the format of a stream in the query
(`alt=sse`). What is stored or runs at Google without a count (files, caches, tokens for browsers, live sessions,
batches) has no endpoint here and is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Raw

from billing.usage import Usage
from gateway.dialects.base import TRIAL_TEXT, TRIAL_TOKENS, Changes, Dialect, Head, Match, Trial
from gateway.dialects.body import FIELDS, TEXT, BadRequest, capped, decoded_answer, is_null
from gateway.dialects.declarations import EVENT_STREAM, Endpoint
from gateway.dialects.facts import Reported
from gateway.dialects.gemini import CLIENT, GEMINI, KEY
from gateway.dialects.gemini.answer import ANSWER, OUTPUT, Reading
from gateway.dialects.gemini.request import (
    COUNT,
    EMBED,
    EMBED_BATCH,
    GENERATE,
    MAX_FIELD,
    REQUEST,
    STREAM,
    input_texts,
    input_tokens,
    method_of,
    parse,
    snake,
)
from gateway.dialects.gemini.streams import ArrayFrames, EventFrames, GeminiTap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.dialects.base import FinalQuotaFacts, ListedModel, RefusalFacts
    from gateway.dialects.facts import ParsedRequest

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


# Of Google's API. A provider is asked for the one that the client asks for.
VERSIONS: Final = ("v1beta", "v1")
METHODS: Final = (GENERATE, STREAM, EMBED, EMBED_BATCH, COUNT)
# How the paths begin that Google alone has.
_GOOGLES_PATH: Final = re.compile(r"/(?:v\d+(?:alpha|beta)\d*|upload/v\d\w*|ws/google\.[^/]+)(?:/|\Z)")
_KEY_IN_QUERY: Final = re.compile(r"[?&]key=")
_METHOD_OF_MODEL: Final = re.compile(r"/v1/(?:models|projects)/[^?]+:(?:[a-z]+[A-Z]\w*|predict)(?:\?|\Z)")
# How the paths begin that other APIs may have, too.
_SHARED_PATH: Final = re.compile(
    r"/v1/(?:models|files|cachedContents|tunedModels|fileSearchStores|interactions|batches|auth_tokens|operations)\b"
)
JSON: Final = b"application/json"
_OBJECTS: Final = msgspec.json.Decoder(list[dict[str, Raw]] | dict[str, Raw])


def usage_from_json(operation: str, body: bytes) -> Reported | None:
    """Return the usage of a whole answer; None where it reports none. Raises `GarbageAnswer`."""
    answer, method = decoded_answer(ANSWER, body), method_of(operation)
    if method == COUNT:
        return Reported(Usage())
    reading = Reading()
    if not reading.add(answer, body):
        return None
    reported = reading.reported(has_output=method not in (EMBED, EMBED_BATCH))
    if reported is None or method in (EMBED, EMBED_BATCH) or reported.usage.output_tokens or reported.counts_nothing:
        return reported
    return reported if OUTPUT.output(body).empty else None  # output without a count is not free


class GeminiDialect(Dialect):
    """Gemini's generateContent, streamGenerateContent, embedContent, batchEmbedContents and countTokens."""

    name = "gemini"
    declared = GEMINI
    endpoints = tuple(
        Endpoint(
            f"/{version}/models/{{model}}:{method}",
            f"{version}:{method}",
            free=method == COUNT,
            writes=method in (GENERATE, STREAM),
        )
        for version in VERSIONS
        for method in METHODS
    )
    kept_parameters = REQUEST.spelled
    models = GeminiModels()
    passed_parameters = frozenset({"alt"})
    trials = (
        Trial(
            f"/v1beta/models/{{model}}:{STREAM}?alt=sse",
            {
                "contents": [{"role": "user", "parts": [{"text": TRIAL_TEXT}]}],
                "generationConfig": {MAX_FIELD: TRIAL_TOKENS},
            },
        ),
        Trial(f"/v1beta/models/{{model}}:{EMBED}", {"content": {"parts": [{"text": TRIAL_TEXT}]}}, writes=False),
    )

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether it is, by its path; or, on paths that several APIs share, by a header or a key in the query
        that is Google's."""
        if _GOOGLES_PATH.match(path) or _METHOD_OF_MODEL.match(path):
            return True
        if not _SHARED_PATH.match(path):
            return False
        return _KEY_IN_QUERY.search(path) is not None or KEY in headers or CLIENT in headers

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""
        return parse(head, body, self._bounds)

    texts = staticmethod(input_texts)
    input_tokens = staticmethod(input_tokens)

    def upstream_path(self, match: Match, model: str) -> str:
        """Return what follows a base URL, which is, as Google's clients take it, all that stands before the version."""
        version = match.endpoint.operation.partition(":")[0]
        return f"/{version}/models/{quote(model)}:{method_of(match.endpoint.operation)}"

    def max_field(self, operation: str, configured: str) -> str:
        """Return the field in which the maximum of an answer's tokens is sent."""
        return MAX_FIELD

    def rewrite(self, body: bytes, changes: Changes) -> bytes:
        """Return the body to send: `model` replaces those names of a model that the body repeats; `max_output_tokens`
        is sent where the client gave no smaller maximum. What is not on the way to these stays byte for byte. No
        field says how often a tool of Google's may run, so that `tool_calls` changes nothing."""
        model, granted, max_field = changes.model, changes.max_output_tokens, changes.max_field
        if model is None and granted is None:
            return body
        fields: dict[str, Any] = dict(FIELDS.decode(body))
        changed = model is not None and _rename(fields, model)
        if granted is not None:
            name = REQUEST.spelling(fields, "generationConfig")
            given: Raw | None = fields.get(name)
            config: dict[str, Any] = {} if is_null(given) or given is None else dict(FIELDS.decode(given))
            spelled = snake(max_field) if snake(max_field) in config else max_field
            config[spelled] = capped(config, spelled, granted)
            fields[name] = config
            changed = True
        return msgspec.json.encode(fields) if changed else body

    usage_from_json = staticmethod(usage_from_json)
    output = staticmethod(OUTPUT.output)
    output_of_part = staticmethod(OUTPUT.output_of_part)

    def is_stream(self, parsed: ParsedRequest, content_type: bytes) -> bool:
        """Return whether it is a stream: of events, or one JSON array."""
        return parsed.stream and content_type.startswith((EVENT_STREAM, JSON))

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> GeminiTap:
        """Return a tap for one stream."""
        return GeminiTap(EventFrames() if content_type.startswith(EVENT_STREAM) else ArrayFrames())

    error_body = staticmethod(error_body)


def _rename(fields: dict[str, Any], model: str) -> bool:
    """Put a model's name wherever a body says it; return whether it did."""
    changed = False
    if "model" in fields and not is_null(fields["model"]):
        prefix = _PREFIX if TEXT.decode(fields["model"]).startswith(_PREFIX) else ""
        fields["model"] = prefix + model
        changed = True
    nested = REQUEST.spelling(fields, "generateContentRequest")
    for name in ("requests", nested):
        if name not in fields or is_null(fields[name]):
            continue
        found = _OBJECTS.decode(fields[name])
        made: list[dict[str, Any]] = [dict(each) for each in (found if isinstance(found, list) else [found])]
        if sum(_rename(each, model) for each in made):
            fields[name] = made if isinstance(found, list) else made[0]
            changed = True
    return changed
