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

What the gateway answers by itself are OpenAI's errors, with what Codex CLI reads of a quota that waiting does not help
with, and the list of models as Codex asks for it.

Codex CLI 0.169.0 asks once, whatever the type. Of `rate_limit_error` its user reads only "exceeded retry limit, last
status: 429 Too Many Requests", of `insufficient_quota` "Quota exceeded. Check your plan and billing details.". With the
type `usage_limit_reached` they read "You've hit your usage limit.", then the header PROMO, then "or try again at" with
`resets_at` (codex-rs/codex-api/src/api_bridge.rs): so the header is the message, with its address.

Models are listed as `ModelInfo` in codex-rs/protocol/src/openai_models.rs of https://github.com/openai/codex has them
(`GET /v1/models?client_version=...`): what has no default there stands here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final
from urllib.parse import parse_qsl, quote

import msgspec
from msgspec import Raw

from billing.schemas import base
from billing.usage import Usage
from gateway.dialects.base import Changes, Dialect, Head
from gateway.dialects.body import (
    FIELDS,
    NULL,
    BadRequest,
    capped,
    check_value,
    decoded,
    decoded_answer,
    field_of,
    is_null,
    request_fields,
)
from gateway.dialects.declarations import Endpoint
from gateway.dialects.facts import NO_WORK, Created, Creation, ParsedRequest, Reported, Stored, Work
from gateway.dialects.openai import OPENAI, dialect
from gateway.dialects.openai.answer import ANSWER
from gateway.dialects.openai.dialect import paths_of, with_azure
from gateway.dialects.openai.work import TOOL_CALLS_FIELD
from gateway.dialects.openai_responses.answer import OUTPUT, ResponseEvents, usage_of
from gateway.dialects.openai_responses.request import (
    COMPACT,
    INPUT_TOKENS,
    MAX_FIELD,
    METERING_FIELDS,
    NO_INPUT,
    RESPONSES,
    Input,
    input_texts,
    input_tokens,
    named_ids,
    parse,
    read_input,
)
from gateway.dialects.streaming import SseTap

if TYPE_CHECKING:
    from gateway.dialects.base import ListedModel, Match, RefusalFacts
    from gateway.dialects.body import StructureBounds

SPENT: Final = "usage_limit_reached"
PROMO: Final = "x-codex-promo-message"


def error_body(refusal: RefusalFacts, request_id: str) -> bytes:
    """Return OpenAI's envelope; where a quota is spent, with `resets_at` in Unix seconds or null."""
    if refusal.final is None:
        return dialect.error_body(refusal, request_id)
    more = {**refusal.extra, "resets_at": refusal.final.resets_at_s}
    return base.error_body(refusal.code, refusal.message, type_=SPENT, param=refusal.param, **more)


def error_headers(request_id: str, refusal: RefusalFacts | None = None) -> Mapping[str, str]:
    """Return what Codex shows where a quota is spent."""
    if refusal is None or refusal.final is None:
        return dialect.error_headers(request_id)
    said = refusal.message.rstrip(".").encode("ascii", "replace").decode()
    return {PROMO: "".join(sign if sign.isprintable() else " " for sign in said)}


# The parameter by which Codex is known.
CLIENT_VERSION: Final = "client_version"
# Models of which Codex has descriptions of its own. An entry would replace these, and with them the instructions that
# Codex was made to work with.
_BUNDLED: Final = re.compile(r"(?:.*/)?(?:gpt-[5-9]|codex)")
_INSTRUCTIONS: Final = (
    "You are a coding agent that works in a terminal, in the user's folder. Read before you change something, keep "
    "changes small, run the project's tests, and say in the end what you did and what is left."
)
_TOOL_OUTPUT_BYTES: Final = 10_000


class CodexModels:
    """How Codex wants models listed; a `ModelList`."""

    paths: Final = ()

    def has(self, model: ListedModel, *, writes: bool) -> bool:
        """Return whether it writes, and Codex does not know it already."""
        return writes and _BUNDLED.match(model.id) is None

    def listed(self, models: Sequence[ListedModel], query: Mapping[str, str]) -> object:
        """Return all of them."""
        return {"models": [self.one(model) for model in models]}

    def one(self, model: ListedModel) -> object:
        """Return one model."""
        return {
            "slug": model.id,
            "display_name": model.id,
            "description": None,
            "supported_reasoning_levels": [],
            "shell_type": "shell_command",
            "visibility": "list",
            "supported_in_api": True,
            "priority": 100,
            "availability_nux": None,
            "upgrade": None,
            "base_instructions": _INSTRUCTIONS,
            "supports_reasoning_summaries": False,
            "support_verbosity": False,
            "default_verbosity": None,
            "apply_patch_tool_type": None,
            "truncation_policy": {"mode": "bytes", "limit": _TOOL_OUTPUT_BYTES},
            "supports_parallel_tool_calls": False,
            "context_window": model.context_window,
            "experimental_supported_tools": [],
        }


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
# What is kept as an object's id and goes into paths; an object whose id is not of this form can't be named later.
_ID: Final = r"^[!-~]{1,200}\Z"
_QUERY_LIMIT: Final = 100


class _Object(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern=_ID)]
    object: str
    status: str | None = None


class _Event(msgspec.Struct):
    """Of a stream, or a message of a client's."""

    type: str | None = None
    response: Raw = NULL


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
        made = decoded(_OBJECT, body)
        if made is None or made.object != self.kind:
            return None
        return Created(made.id, made.status in _RUNNING, made.status == _CANCELLED)

    def of_event(self, data: bytes) -> Created | None:
        """Return the object of the first event of a stream."""
        event = decoded(_EVENT, data)
        return None if event is None else self.of_answer(event.response)


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
    unknown = tuple(tool.kind for tool in given.tools if not tool.known)  # which nothing says again when they run
    return ParsedRequest(
        operation=endpoint.operation,
        model="",
        stream=stream and endpoint.operation == f"GET {RESPONSE}",
        include_usage=True,
        input_bound_tokens=len(body),
        work=Work(unknown_tools=unknown) if unknown else NO_WORK,
        stored=Stored(tuple(dict.fromkeys(ids)), creation=creation, tools=given.kinds),
    )


def _added(body: bytes, bounds: StructureBounds) -> Input:
    """Return what the body of a conversation, or of items that are added to one, brings into it."""
    fields = request_fields(body, bounds)
    for name, raw in fields.items():
        check_value(raw, bounds, 1, name)
    items = field_of(fields, "items")
    if items is None:
        return Input(ids=tuple(named_ids(body)))
    return read_input(items, bounds)


_OPERATIONS: Final = frozenset({RESPONSES, COMPACT, INPUT_TOKENS})
SOCKET: Final = "responses_websocket"
CREATE: Final = "response.create"
UPGRADE: Final = "Upgrade"


class ResponsesDialect(Dialect):
    """OpenAI's Responses API. Other paths than its own are of OpenAI's dialect."""

    name = "openai"
    declared = OPENAI
    endpoints = (
        *with_azure((RESPONSES, COMPACT), deployed=False),
        *with_azure((INPUT_TOKENS,), free=True, deployed=False),
        *OBJECT_ENDPOINTS,
    )
    kept_parameters = METERING_FIELDS - {STREAM}  # which reads a stored response again, as events
    events = ResponseEvents()
    creations: ClassVar[tuple[Creation, ...]] = (RESPONSES_CREATION,)

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

    def max_field(self, operation: str, configured: str) -> str:
        """Return the field in which the maximum of an answer's tokens is sent."""
        return MAX_FIELD if operation == RESPONSES else ""

    def rewrite(self, body: bytes, changes: Changes) -> bytes:
        """Return the body to send: what is nested stays byte for byte; spaces between top-level fields go. `max_field`
        is empty where the endpoint takes no maximum."""
        max_field, calls = changes.max_field, changes.tool_calls
        most = changes.max_output_tokens if max_field else None
        if not body or (changes.model is None and most is None and calls is None):
            return body
        fields: dict[str, Any] = dict(FIELDS.decode(body))
        if changes.model is not None and "model" in fields:  # a stored object is reached without
            fields["model"] = changes.model
        elif most is None and calls is None:
            return body
        if most is not None:
            fields[max_field] = capped(fields, max_field, most)
        if calls is not None and is_null(fields.get(TOOL_CALLS_FIELD)):
            fields[TOOL_CALLS_FIELD] = calls
        return msgspec.json.encode(fields)

    def usage_from_json(self, operation: str, body: bytes) -> Reported | None:
        """Return the usage of a whole answer; None where it reports none. Raises `GarbageAnswer`."""
        if operation in (RESPONSES, COMPACT):
            return usage_of(body)
        decoded_answer(ANSWER, body)
        return Reported(Usage())  # of what is free, whatever it says of an earlier answer

    output = staticmethod(OUTPUT.output)
    output_of_part = staticmethod(OUTPUT.output_of_part)

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> SseTap:
        """Return a tap for one stream."""
        return SseTap(self.events, hold_usage=include_cost)

    error_body = staticmethod(error_body)
    error_headers = staticmethod(error_headers)


class SocketDialect(ResponsesDialect):
    """The messages of a connection."""

    name = SOCKET
    endpoints = (Endpoint(RESPONSES, RESPONSES, "GET", header="Sec-WebSocket-Key"),)
    creations = ()  # nothing here goes on in the background

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""
        if UPGRADE not in head.headers:
            raise BadRequest("This is a WebSocket: connect with 'Upgrade: websocket', or POST your request.")
        message = decoded(_EVENT, body) or _Event(CREATE)  # what is wrong with it is said below
        if not is_null(message.response):  # where the Realtime API has them
            raise BadRequest("Write the fields of the response beside 'type'.", "response")
        if message.type != CREATE:
            raise BadRequest(f"Only messages of the type '{CREATE}' are served here.", "type")
        parsed = parse(RESPONSES, body, self._bounds, RESPONSES_CREATION, on_socket=True)
        if parsed.stored is not None and parsed.stored.background:
            raise BadRequest("A response on a WebSocket can't be in the background: POST it.", "background")
        return msgspec.structs.replace(parsed, stream=True)
