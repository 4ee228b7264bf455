"""Anthropic's format, the request: what it asks for at most, and the few top-level fields the gateway changes. And what
the gateway answers by itself: errors, and the list of models.

Source: https://docs.anthropic.com/en/api/messages, .../messages-count-tokens. As with OpenAI's format
(`gateway.dialects.openai.dialect`), a body is refused that two parsers could read differently: the bound read here
holds for whatever the provider reads. `max_tokens` must be given, as Anthropic asks; it includes thinking, may be 0.

Error object: https://docs.anthropic.com/en/api/errors. Its SDKs choose the class of an exception by the status, show
`error.message`, and read the request's id from the header `request-id`. List:
https://docs.anthropic.com/en/api/models-list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.anthropic import ANTHROPIC, REQUEST_ID, VERSION
from gateway.dialects.anthropic.content import (
    MESSAGES,
    OUTPUT,
    change_each,
    change_tools,
    change_tools_of_system,
    input_tokens,
    read_messages,
)
from gateway.dialects.anthropic.usage import AnthropicEvents, counted_from_json, usage_from_json
from gateway.dialects.anthropic.work import TOOL_SYSTEM_TOKENS, WORK_FIELDS, grant_uses, read_work
from gateway.dialects.base import TRIAL_TEXT, TRIAL_TOKENS, Changes, Dialect, Head, Match, Trial
from gateway.dialects.body import (
    DEFAULT_BOUNDS,
    FIELD_LEVEL,
    FIELDS,
    BadRequest,
    FieldTable,
    StructureBounds,
    capped,
    check_value,
    checked_model,
    decoded,
    field_of,
    first_byte,
    is_null,
    label,
    read_object,
    read_values,
    request_fields,
    text,
    wrong_type,
)
from gateway.dialects.declarations import Endpoint
from gateway.dialects.facts import ParsedRequest, Reported
from gateway.dialects.streaming import SseTap

if TYPE_CHECKING:
    from collections.abc import Sequence

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


MESSAGE: Final = "/v1/messages"
COUNT: Final = "/v1/messages/count_tokens"
MAX_FIELD: Final = "max_tokens"
_EXPECTED: Final = {
    **dict.fromkeys(("model", "service_tier", "inference_geo"), "a string"),
    MAX_FIELD: "an integer",
    "stream": "a boolean",
}
METERING_FIELDS: Final = frozenset({*_EXPECTED, MESSAGES, "system", "metadata", "output_config", *WORK_FIELDS})
_TABLE: Final = FieldTable(
    _EXPECTED,
    METERING_FIELDS,
    METERING_FIELDS | {"temperature", "top_p", "top_k", "stop_sequences", "tool_choice", "thinking", "cache_control"},
    WORK_FIELDS | {"system", "metadata"},
)
_USER: Final = frozenset({"user_id"})
_FORMER_SESSION: Final = re.compile(r"user_[0-9a-f]+_account_[0-9a-f-]*_session_([0-9A-Za-z-]+)", re.ASCII)


class _ClientOfSession(msgspec.Struct):
    session_id: str
    device_id: str | None = None
    account_uuid: str | None = None


_CLIENT_OF_SESSION: Final = msgspec.json.Decoder(_ClientOfSession)


def parse(operation: str, body: bytes, bounds: StructureBounds = DEFAULT_BOUNDS) -> ParsedRequest:
    """Return what a request asks for. Raises `BadRequest`."""
    fields = request_fields(body, bounds)
    values = read_values(fields, _TABLE, MESSAGES, bounds)
    model = checked_model(values.get("model"))
    messages = fields.get(MESSAGES)
    if messages is None:
        raise BadRequest(f"Missing required parameter: '{MESSAGES}'.", MESSAGES)
    if first_byte(messages) != ord("["):
        raise wrong_type(MESSAGES, "an array of objects")
    found = read_messages(messages, fields.get("system"), bounds)
    asked = read_work(fields, bounds, found.tools)
    writes = operation == MESSAGE
    most = _max_tokens(values, asked.max_output_tokens) if writes else None
    tier = values.get("service_tier")
    end_user, session = _end_user_and_session(fields.get("metadata"), bounds)
    schema_tokens = 0 if is_null(fields.get("output_config")) else TOOL_SYSTEM_TOKENS
    return ParsedRequest(
        operation=operation,
        model=model,
        stream=writes and values.get("stream") is True,
        include_usage=True,
        choices=asked.answers,
        max_output_tokens=most,
        max_fields=() if most is None else (MAX_FIELD,),
        input_bound_tokens=len(body) + asked.prompt_tokens + schema_tokens,
        end_user=end_user,
        service_tier=label(tier) if tier else None,
        has_output=writes,
        parts=found.parts,
        unbounded_input=found.outside or asked.work.outside,
        work=asked.work,
        session=session,
    )


def rewrite(body: bytes, changes: Changes) -> bytes:
    """Return the body for the provider; the same object where nothing changes. For bodies that `parse` has accepted."""
    model, most, calls = changes.model, changes.max_output_tokens, changes.tool_calls
    if model is None and most is None and calls is None:
        return body
    fields: dict[str, Any] = dict(FIELDS.decode(body))
    if model is not None:
        fields["model"] = model
    if most is not None:
        fields[MAX_FIELD] = capped(fields, MAX_FIELD, most)
    if calls is not None and not _grant(fields, calls) and model is None and most is None:
        return body
    return msgspec.json.encode(fields)


def _grant(fields: dict[str, Any], calls: int) -> bool:
    """Write the granted calls into each tool that has no bound of its own; return whether there are any."""
    granted = False
    for name, change in (("tools", change_each), (MESSAGES, change_tools), ("system", change_tools_of_system)):
        given = field_of(fields, name)
        if given is not None:
            fields[name] = change(given, lambda tool: grant_uses(tool, calls))
            granted = granted or fields[name] is not given
    return granted


class AnthropicDialect(Dialect):
    """Anthropic's messages, and counting their tokens."""

    name = "anthropic"
    declared = ANTHROPIC
    endpoints = (
        Endpoint(MESSAGE, MESSAGE, id_header=REQUEST_ID),
        Endpoint(COUNT, COUNT, free=True, id_header=REQUEST_ID),
    )
    kept_parameters = METERING_FIELDS
    models = AnthropicModels()
    trials = (
        Trial(
            MESSAGE,
            {MESSAGES: [{"role": "user", "content": TRIAL_TEXT}], MAX_FIELD: TRIAL_TOKENS, "stream": True},
            headers={VERSION: "2023-06-01"},
        ),
    )

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether Anthropic's clients sent it: they name the version of its API."""
        return path == MESSAGE or path.startswith(MESSAGE + "/") or VERSION in headers

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""
        return parse(head.match.endpoint.operation, body, self._bounds)

    input_tokens = staticmethod(input_tokens)
    rewrite = staticmethod(rewrite)
    output = staticmethod(OUTPUT.output)
    output_of_part = staticmethod(OUTPUT.output_of_part)
    error_body = staticmethod(error_body)
    error_headers = staticmethod(error_headers)

    def upstream_path(self, match: Match, model: str) -> str:
        """Return what follows a base URL, which is, as Anthropic's clients take it, all that stands before `/v1`."""
        return match.endpoint.operation

    def max_field(self, operation: str, configured: str) -> str:
        """Return the field in which the maximum of an answer's tokens is sent."""
        return MAX_FIELD

    def usage_from_json(self, operation: str, body: bytes) -> Reported | None:
        """Return the usage of a whole answer; None where it reports none. Raises `GarbageAnswer`."""
        return usage_from_json(body) if operation == MESSAGE else counted_from_json(body)

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> SseTap:
        """Return a tap for one stream."""
        return SseTap(AnthropicEvents(), hold_usage=include_cost)


def _max_tokens(values: Mapping[str, Any], of_fallbacks: int) -> int:
    """Return the most tokens of one answer, thinking included."""
    most: int | None = values.get(MAX_FIELD)
    if most is None:
        raise BadRequest(f"Missing required parameter: '{MAX_FIELD}'.", MAX_FIELD)
    if not 0 <= most <= MAX_COUNT:
        raise BadRequest(f"Invalid value for '{MAX_FIELD}': expected an integer from 0 to {MAX_COUNT}.", MAX_FIELD)
    return max(most, of_fallbacks)


def _end_user_and_session(metadata: Raw | None, bounds: StructureBounds) -> tuple[str | None, str | None]:
    """Return the end user and the session that `metadata.user_id` names, None each where it names none."""
    if metadata is None or is_null(metadata):
        return None, None
    check_value(metadata, bounds, FIELD_LEVEL, "metadata")
    user = field_of(read_object(metadata, "metadata", _USER), "user_id")
    if user is None:
        return None, None
    name = text(user, "metadata.user_id")
    if not name:
        return None, None
    session = _session(name)
    return (None, label(session)) if session else (label(name), None)


def _session(user_id: str) -> str | None:
    """Return the session that Claude Code writes where others name a user, None where it is no text of Claude Code's:
    `{"device_id":…,"account_uuid":…,"session_id":…}`, formerly `user_…_account_…_session_…`."""
    if user_id.startswith("{"):
        said = decoded(_CLIENT_OF_SESSION, user_id)
        if said is None or (said.device_id is None and said.account_uuid is None):
            return None
        return said.session_id
    found = _FORMER_SESSION.fullmatch(user_id)
    return found[1] if found else None
