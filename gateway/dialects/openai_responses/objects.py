"""The Responses API, stored objects: responses and conversations, and the endpoints that read and change them.

Source: https://platform.openai.com/docs/api-reference/responses/get and .../conversations. This file owns which of a
request's ids name objects that must be the account's. None of these endpoints is billed: what was made was paid for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Raw

from gateway.dialects.base import Endpoint, Head
from gateway.dialects.facts import Created, ParsedRequest, Stored
from gateway.dialects.fields import is_null, top_level
from gateway.dialects.openai.paths import paths_of
from gateway.dialects.openai_responses.answer import usage_of
from gateway.dialects.openai_responses.input import named_ids, read_input
from gateway.dialects.structure import check_size, check_value, too_many

if TYPE_CHECKING:
    from gateway.dialects.facts import Reported
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
_QUERY_LIMIT: Final = 100


class _Object(msgspec.Struct):
    id: str
    object: str
    status: str | None = None


class _Event(msgspec.Struct):
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
    given = {value.lower() for name, value in query if "".join(filter(str.isalnum, name.lower())) == STREAM}
    stream = not given <= {"", "false", "0"}
    ids = [parameters[name] for name in _OWNERS if name in parameters]
    if body and endpoint.method == "POST":
        ids += _ids_of(body, bounds)
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
        stored=Stored(tuple(dict.fromkeys(ids)), creation=creation),
    )


def _ids_of(body: bytes, bounds: StructureBounds) -> list[str]:
    """The ids in the body of a conversation, or of items that are added to one."""
    check_size(body, bounds)
    fields = top_level(body, bounds.fields)
    if fields is None:
        raise too_many("fields", bounds.fields)
    for name, raw in fields.items():
        check_value(raw, bounds, 1, name)
    items = fields.get("items")
    if items is None or is_null(items):
        return named_ids(body)
    return read_input(items, bounds)[2]
