"""Anthropic's format, the request: what it asks for at most, and the few top-level fields the gateway changes.

Source: https://docs.anthropic.com/en/api/messages, .../messages-count-tokens. As with OpenAI's format
(`gateway.dialects.openai.dialect`), a body is refused that two parsers could read differently: the bound read here
holds for whatever the provider reads. `max_tokens` must be given, as Anthropic asks; it includes thinking, may be 0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.anthropic.content import (
    MESSAGES,
    change_each,
    change_tools,
    change_tools_of_system,
    input_tokens,
    output_of,
    output_of_part,
    read_messages,
)
from gateway.dialects.anthropic.envelopes import REQUEST_ID, error_body, error_headers
from gateway.dialects.anthropic.usage import AnthropicEvents, counted_from_json, usage_from_json
from gateway.dialects.anthropic.work import TOOL_SYSTEM_TOKENS, WORK_FIELDS, grant_uses, read_work
from gateway.dialects.base import Endpoint, Head, Match
from gateway.dialects.events import EVENT_STREAM
from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import ParsedRequest, Reported
from gateway.dialects.fields import first_byte, folded, is_null, other_case, read_object, top_level, wrong_type
from gateway.dialects.streaming import SseTap
from gateway.dialects.structure import SHORT_VALUE_BYTES, StructureBounds, check_size, check_value, too_many
from gateway.dialects.values import checked_model, label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MESSAGE: Final = "/v1/messages"
COUNT: Final = "/v1/messages/count_tokens"
MAX_FIELD: Final = "max_tokens"
"""An end user's name and a service tier are kept up to here."""
_VERSION: Final = "anthropic-version"
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_STRING: Final[msgspec.json.Decoder[str | None]] = msgspec.json.Decoder(str | None)
_INTEGER: Final[msgspec.json.Decoder[int | None]] = msgspec.json.Decoder(int | None)
_BOOLEAN: Final[msgspec.json.Decoder[bool | None]] = msgspec.json.Decoder(bool | None)
_EXPECTED: Final = {
    **dict.fromkeys(("model", "service_tier", "inference_geo"), "a string"),
    MAX_FIELD: "an integer",
    "stream": "a boolean",
}
_DECODERS: Final = {"a string": _STRING.decode, "an integer": _INTEGER.decode, "a boolean": _BOOLEAN.decode}
_READERS: Final[dict[str, Callable[[Raw], str | int | None]]] = {
    name: _DECODERS[expected] for name, expected in _EXPECTED.items()
}
METERING_FIELDS: Final = frozenset({*_READERS, MESSAGES, "system", "metadata", "output_config", *WORK_FIELDS})
_MEANT: Final = {folded(name): name for name in METERING_FIELDS}
_LOOKED_INTO: Final = WORK_FIELDS | {MESSAGES, "system", "metadata"}
_USUAL_FIELDS: Final = METERING_FIELDS | {
    *("temperature", "top_p", "top_k", "stop_sequences", "tool_choice", "thinking", "cache_control"),
}
"""Names that need no second look; any other costs a case-folding."""
_FIELD_LEVEL: Final = 1
_USER: Final = frozenset({"user_id"})
_FORMER_SESSION: Final = re.compile(r"user_[0-9a-f]+_account_[0-9a-f-]*_session_([0-9A-Za-z-]+)", re.ASCII)
DEFAULT_BOUNDS: Final = StructureBounds()


class _ClientOfSession(msgspec.Struct):
    session_id: str
    device_id: str | None = None
    account_uuid: str | None = None


_CLIENT_OF_SESSION: Final = msgspec.json.Decoder(_ClientOfSession)


def parse(operation: str, body: bytes, bounds: StructureBounds = DEFAULT_BOUNDS) -> ParsedRequest:
    """Return what a request asks for. Raises `BadRequest`."""
    if len(body) > bounds.small_bytes:
        check_size(body, bounds)
    fields = top_level(body, bounds.fields)
    if fields is None:
        raise too_many("fields", bounds.fields)
    values = _values(fields, bounds)
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


def rewrite(
    body: bytes, *, model: str | None = None, max_output_tokens: int | None = None, tool_calls: int | None = None
) -> bytes:
    """Return the body for the provider; the same object where nothing changes. For bodies that `parse` has accepted."""
    if model is None and max_output_tokens is None and tool_calls is None:
        return body
    fields: dict[str, Any] = dict(_FIELDS.decode(body))
    if model is not None:
        fields["model"] = model
    if max_output_tokens is not None:
        own = _INTEGER.decode(fields.get(MAX_FIELD, b"null"))
        fields[MAX_FIELD] = max_output_tokens if own is None else min(own, max_output_tokens)
    if tool_calls is not None and not _grant(fields, tool_calls) and model is None and max_output_tokens is None:
        return body
    return msgspec.json.encode(fields)


def _grant(fields: dict[str, Any], calls: int) -> bool:
    """Write the granted calls into each tool that has no bound of its own; return whether there are any."""
    granted = False
    for name, change in (("tools", change_each), (MESSAGES, change_tools), ("system", change_tools_of_system)):
        given = fields.get(name)
        if given is not None and not is_null(given):
            fields[name] = change(given, lambda tool: grant_uses(tool, calls))
            granted = granted or fields[name] is not given
    return granted


class AnthropicDialect:
    """Anthropic's messages, and counting their tokens; a `Dialect`."""

    name: Final = "anthropic"
    endpoints: Final = (
        Endpoint(MESSAGE, MESSAGE, id_header=REQUEST_ID),
        Endpoint(COUNT, COUNT, free=True, id_header=REQUEST_ID),
    )
    key_headers: Final = ()
    key_parameter: Final = None
    kept_parameters: Final = METERING_FIELDS
    passed_parameters: Final[frozenset[str]] = frozenset()

    def __init__(self, bounds: StructureBounds = DEFAULT_BOUNDS) -> None:
        self._bounds = bounds

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether Anthropic's clients sent it: they name the version of its API."""
        return path == MESSAGE or path.startswith(MESSAGE + "/") or _VERSION in headers

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""
        return parse(head.match.endpoint.operation, body, self._bounds)

    def texts(self, body: bytes) -> list[tuple[str, int]]:
        """Return none: no vocabulary of Anthropic's models is public, so that the bytes of a body are its bound."""
        return []

    input_tokens = staticmethod(input_tokens)

    def upstream_path(self, match: Match, model: str) -> str:
        """Return what follows a base URL, which is, as Anthropic's clients take it, all that stands before `/v1`."""
        return match.endpoint.operation

    def auth_header(self, key: str) -> tuple[str, str]:
        """Return the header in which a provider takes its key."""
        return "x-api-key", key

    def max_field(self, operation: str, configured: str) -> str:
        """Return the field in which the maximum of an answer's tokens is sent."""
        return MAX_FIELD

    def rewrite(
        self,
        body: bytes,
        *,
        model: str | None,
        include_usage: bool,
        max_output_tokens: int | None,
        max_field: str,
        tool_calls: int | None = None,
    ) -> bytes:
        """Return the body to send; the same object where nothing changes."""
        return rewrite(body, model=model, max_output_tokens=max_output_tokens, tool_calls=tool_calls)

    def usage_from_json(self, operation: str, body: bytes) -> Reported | None:
        """Return the usage of a whole answer; None where it reports none. Raises `GarbageAnswer`."""
        return usage_from_json(body) if operation == MESSAGE else counted_from_json(body)

    output = staticmethod(output_of)
    output_of_part = staticmethod(output_of_part)

    def is_stream(self, parsed: ParsedRequest, content_type: bytes) -> bool:
        """Return whether an answer is passed on as it comes."""
        return content_type.startswith(EVENT_STREAM)

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> SseTap:
        """Return a tap for one stream."""
        return SseTap(AnthropicEvents(), hold_usage=include_cost)

    error_body = staticmethod(error_body)
    error_headers = staticmethod(error_headers)


def _values(fields: Mapping[str, Raw], bounds: StructureBounds) -> dict[str, Any]:
    """Return the small fields, decoded. Raises `BadRequest` for a wrong type, or a name that other parsers would
    take."""
    values: dict[str, Any] = {}
    try:
        for name, raw in fields.items():
            if name in _READERS:
                values[name] = _READERS[name](raw)
                continue
            if name not in _USUAL_FIELDS and (meant := _MEANT.get(folded(name))):
                raise other_case(meant)
            if len(raw) > SHORT_VALUE_BYTES and name not in _LOOKED_INTO:
                check_value(raw, bounds, _FIELD_LEVEL, name)
    except msgspec.DecodeError as error:
        raise wrong_type(name, _EXPECTED[name]) from error
    return values


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
    check_value(metadata, bounds, _FIELD_LEVEL, "metadata")
    user = read_object(metadata, "metadata", _USER).get("user_id")
    if user is None or is_null(user):
        return None, None
    try:
        name = _STRING.decode(user)
    except msgspec.DecodeError as error:
        raise wrong_type("metadata.user_id", "a string") from error
    if not name:
        return None, None
    session = _session(name)
    return (None, label(session)) if session else (label(name), None)


def _session(user_id: str) -> str | None:
    """Return the session that Claude Code writes where others name a user, None where it is no text of Claude Code's:
    `{"device_id":…,"account_uuid":…,"session_id":…}`, formerly `user_…_account_…_session_…`."""
    if user_id.startswith("{"):
        try:
            said = _CLIENT_OF_SESSION.decode(user_id)
        except (msgspec.DecodeError, RecursionError):
            return None
        return said.session_id if said.device_id is not None or said.account_uuid is not None else None
    found = _FORMER_SESSION.fullmatch(user_id)
    return found[1] if found else None
