"""The Responses API as a dialect: its endpoints, and the few fields of a request that the gateway changes.

Its name is that of OpenAI's API, because the providers that serve the one serve the other below the same base URL.

Over a WebSocket (https://developers.openai.com/api/docs/guides/websocket-mode) each `response.create` that a client
sends is a request of its own: the body of a POST with a `type`, whose answer is always a stream, with events as
messages. Its response can be gone on from for as long as the connection lasts even where it is not stored, so that its
owner is recorded all the same. That is a dialect of its own, because a provider has to say that it serves it:
`dialects: {responses_websocket: URL}`.

Stored objects are responses and conversations: which of a request's ids name objects that must be the account's. None
of the endpoints that read and change them is billed: what was made was paid for. Source:
https://platform.openai.com/docs/api-reference/responses/get and .../conversations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qsl, quote

import msgspec
from msgspec import Raw

from billing.usage import Usage
from gateway.dialects.base import Endpoint, Head
from gateway.dialects.events import EVENT_STREAM
from gateway.dialects.exceptions import BadRequest, GarbageAnswer
from gateway.dialects.facts import Created, ParsedRequest, Reported, Stored
from gateway.dialects.fields import is_null, top_level
from gateway.dialects.openai.output import output_of_part
from gateway.dialects.openai.paths import paths_of, with_azure
from gateway.dialects.openai.tools import TOOL_CALLS_FIELD
from gateway.dialects.openai.usage import is_complete_answer
from gateway.dialects.openai.values import INTEGER
from gateway.dialects.openai_responses.answer import ResponseEvents, output_of, usage_of
from gateway.dialects.openai_responses.errors import error_body, error_headers
from gateway.dialects.openai_responses.input import NO_INPUT, Input, input_texts, input_tokens, named_ids, read_input
from gateway.dialects.openai_responses.request import (
    COMPACT,
    INPUT_TOKENS,
    MAX_FIELD,
    METERING_FIELDS,
    RESPONSES,
    parse,
)
from gateway.dialects.streaming import SseTap
from gateway.dialects.structure import check_size, check_value, too_many

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.dialects.base import Head, Match
    from gateway.dialects.facts import Creation
    from gateway.dialects.structure import StructureBounds

RESPONSE: Final = "/v1/responses/{response_id}"
CONVERSATIONS: Final = "/v1/conversations"
CONVERSATION: Final = "/v1/conversations/{conversation_id}"
_ENDPOINTS: Final = (
    ("GET", RESPONSE),
    ("DELETE", RESPONSE),
    ("POST", RESPONSE + "/cancel"),
    ("GET", RESPONSE + "/input_items"),
    ("POST", CONVERSATIONS),
    ("GET", CONVERSATION),
    ("POST", CONVERSATION),
    ("DELETE", CONVERSATION),
    ("GET", CONVERSATION + "/items"),
    ("POST", CONVERSATION + "/items"),
    ("GET", CONVERSATION + "/items/{item_id}"),
    ("DELETE", CONVERSATION + "/items/{item_id}"),
)
OBJECT_ENDPOINTS: Final = tuple(
    Endpoint(path, f"{method} {own}", method, free=True) for method, own in _ENDPOINTS for path in paths_of(own)
)
STREAM: Final = "stream"
_OWNERS: Final = ("response_id", "conversation_id")
_RUNNING: Final = frozenset({"queued", "in_progress"})
_CANCELLED: Final = "cancelled"
_ID: Final = r"^[!-~]{1,200}\Z"
"""What is kept as an object's id and goes into paths; an object whose id is not of this form can't be named later."""
_QUERY_LIMIT: Final = 100


class _Object(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern=_ID)]
    object: str
    status: str | None = None


class _Event(msgspec.Struct):
    """Of a stream, or a message of a client's."""

    type: str | None = None
    response: Raw = Raw(b"null")


_OBJECT: Final = msgspec.json.Decoder(_Object)
_EVENT: Final = msgspec.json.Decoder(_Event)


class ObjectCreation:
    """Reads the object that an answer has created; a `Creation`. `kind` is what the answer's `object` says."""

    def __init__(self, kind: str, path: str, cancel: str | None) -> None:
        self.kind: Final = kind
        self.parameter: Final = f"{kind}_id"
        self.poll: Final = Endpoint(path, f"GET {path}", "GET", free=True)
        self.cancel: Final = None if cancel is None else Endpoint(cancel, f"POST {cancel}", free=True)

    def reported(self, body: bytes) -> Reported | None:
        """Return the usage of one that is done."""
        return usage_of(body)

    def of_answer(self, body: bytes | Raw) -> Created | None:
        """Return the object of a whole answer."""
        try:
            made = _OBJECT.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if made.object != self.kind:
            return None
        return Created(made.id, made.status in _RUNNING, made.status == _CANCELLED)

    def of_event(self, data: bytes) -> Created | None:
        """Return the object of the first event of a stream."""
        try:
            return self.of_answer(_EVENT.decode(data).response)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


RESPONSES_CREATION: Final = ObjectCreation("response", RESPONSE, RESPONSE + "/cancel")
CONVERSATIONS_CREATION: Final = ObjectCreation("conversation", CONVERSATION, None)


def parse_object(head: Head, body: bytes, bounds: StructureBounds) -> ParsedRequest:
    """Return what a request to one of these endpoints names and creates; a response that is read may come as a stream.
    Raises `BadRequest`."""
    endpoint, parameters = head.match.endpoint, head.match.parameters
    query = parse_qsl(head.path.partition("?")[2], keep_blank_values=True, max_num_fields=None)[:_QUERY_LIMIT]
    # Servers differ in what they take for a name: its letters and digits alone count.
    wanted = {value.lower() for name, value in query if "".join(filter(str.isalnum, name.lower())) == STREAM}
    stream = not wanted <= {"", "false", "0"}
    ids = [parameters[name] for name in _OWNERS if name in parameters]
    given = _added(body, bounds) if body and endpoint.method == "POST" else NO_INPUT
    ids += given.ids
    creation = CONVERSATIONS_CREATION if endpoint.operation == f"POST {CONVERSATIONS}" else None
    return ParsedRequest(
        operation=endpoint.operation,
        model="",
        stream=stream and endpoint.operation == f"GET {RESPONSE}",
        include_usage=True,
        choices=1,
        max_output_tokens=None,
        input_bound_tokens=len(body),
        end_user=None,
        service_tier=None,
        has_output=False,
        stored=Stored(tuple(dict.fromkeys(ids)), creation=creation, tools=given.kinds),
    )


def _added(body: bytes, bounds: StructureBounds) -> Input:
    """Return what the body of a conversation, or of items that are added to one, brings into it."""
    check_size(body, bounds)
    fields = top_level(body, bounds.fields)
    if fields is None:
        raise too_many("fields", bounds.fields)
    for name, raw in fields.items():
        check_value(raw, bounds, 1, name)
    items = fields.get("items")
    if items is None or is_null(items):
        return Input(ids=tuple(named_ids(body)))
    return read_input(items, bounds)


_OPERATIONS: Final = frozenset({RESPONSES, COMPACT, INPUT_TOKENS})
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
SOCKET: Final = "responses_websocket"
CREATE: Final = "response.create"
UPGRADE: Final = "Upgrade"


class ResponsesDialect:
    """OpenAI's Responses API; a `Dialect`."""

    name: str = "openai"
    endpoints: tuple[Endpoint, ...] = (
        *with_azure((RESPONSES, COMPACT), deployed=False),
        *with_azure((INPUT_TOKENS,), free=True, deployed=False),
        *OBJECT_ENDPOINTS,
    )
    key_headers: Final = ()
    key_parameter: Final = None
    kept_parameters: Final = METERING_FIELDS - {STREAM}  # which reads a stored response again, as events
    passed_parameters: Final[frozenset[str]] = frozenset()
    events: Final = ResponseEvents()
    creations: tuple[Creation, ...] = (RESPONSES_CREATION,)

    def __init__(self, bounds: StructureBounds) -> None:
        self._bounds = bounds

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return that none is: OpenAI's dialect answers for its paths."""
        return False  # its errors are those of OpenAI's dialect

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""
        operation = head.match.endpoint.operation
        if operation in _OPERATIONS:
            return parse(operation, body, self._bounds, RESPONSES_CREATION)
        return parse_object(head, body, self._bounds)

    texts = staticmethod(input_texts)
    input_tokens = staticmethod(input_tokens)

    def upstream_path(self, match: Match, model: str) -> str:
        """Return what follows a provider's base URL."""
        endpoint = match.endpoint
        path = endpoint.operation.rpartition(" ")[2].removeprefix("/v1")
        for name, value in match.parameters.items():
            path = path.replace(f"{{{name}}}", quote(value, safe=""))
        return path

    def auth_header(self, key: str) -> tuple[str, str]:
        """Return the header in which a provider takes its key."""
        return "Authorization", f"Bearer {key}"

    def max_field(self, operation: str, configured: str) -> str:
        """Return the field in which the maximum of an answer's tokens is sent."""
        return MAX_FIELD if operation == RESPONSES else ""

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
        """Return the body to send: what is nested stays byte for byte; spaces between top-level fields go. `max_field`
        is empty where the endpoint takes no maximum."""
        bounded = max_output_tokens is not None and max_field
        if not body or (model is None and not bounded and tool_calls is None):
            return body
        fields: dict[str, Any] = dict(_FIELDS.decode(body))
        if model is None or "model" not in fields:  # a stored object is reached without
            if not bounded and tool_calls is None:
                return body
        else:
            fields["model"] = model
        if max_output_tokens is not None and max_field:
            own = INTEGER.decode(fields.get(max_field, Raw(b"null")))
            fields[max_field] = max_output_tokens if own is None else min(own, max_output_tokens)
        if tool_calls is not None and is_null(fields.get(TOOL_CALLS_FIELD)):
            fields[TOOL_CALLS_FIELD] = tool_calls
        return msgspec.json.encode(fields)

    def usage_from_json(self, operation: str, body: bytes) -> Reported | None:
        """Return the usage of a whole answer; None where it reports none. Raises `GarbageAnswer`."""
        if operation in (RESPONSES, COMPACT):
            return usage_of(body)
        if not is_complete_answer(body):
            raise GarbageAnswer("the provider's answer is not a JSON object")
        return Reported(Usage())  # of what is free, whatever it says of an earlier answer

    output = staticmethod(output_of)
    output_of_part = staticmethod(output_of_part)

    def is_stream(self, parsed: ParsedRequest, content_type: bytes) -> bool:
        """Return whether an answer is passed on as it comes."""
        return content_type.startswith(EVENT_STREAM)

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> SseTap:
        """Return a tap for one stream."""
        return SseTap(self.events, hold_usage=include_cost)

    error_body = staticmethod(error_body)
    error_headers = staticmethod(error_headers)


class SocketDialect(ResponsesDialect):
    """The messages of a connection; a `Dialect`."""

    name = SOCKET
    endpoints = (Endpoint(RESPONSES, RESPONSES, "GET", header="Sec-WebSocket-Key"),)
    creations = ()  # nothing here goes on in the background

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""
        if UPGRADE not in head.headers:
            raise BadRequest("This is a WebSocket: connect with 'Upgrade: websocket', or POST your request.")
        try:
            message = _EVENT.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = _Event(CREATE)  # what is wrong with it is said below
        if not is_null(message.response):  # where the Realtime API has them
            raise BadRequest("Write the fields of the response beside 'type'.", "response")
        if message.type != CREATE:
            raise BadRequest(f"Only messages of the type '{CREATE}' are served here.", "type")
        parsed = parse(RESPONSES, body, self._bounds, RESPONSES_CREATION, on_socket=True)
        if parsed.stored is not None and parsed.stored.background:
            raise BadRequest("A response on a WebSocket can't be in the background: POST it.", "background")
        return msgspec.structs.replace(parsed, stream=True)
