"""The Responses API over a WebSocket: each `response.create` that a client sends is a request of its own.

Source: https://developers.openai.com/api/docs/guides/websocket-mode. A message is the body of a POST with a `type`; its
answer is always a stream, whose events come as messages. Its response can be gone on from for as long as the connection
lasts even where it is not stored, so that whose it is is recorded all the same.

It is a dialect of its own, because a provider has to say that it serves it: `dialects: {responses_websocket: URL}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.dialects.base import Endpoint
from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import Stored
from gateway.dialects.openai_responses.dialect import ResponsesDialect
from gateway.dialects.openai_responses.objects import RESPONSES_CREATION
from gateway.dialects.openai_responses.request import RESPONSES, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.dialects.base import Head
    from gateway.dialects.facts import ParsedRequest

SOCKET: Final = "responses_websocket"
CREATE: Final = "response.create"
UPGRADE: Final = "Upgrade"


class _Message(msgspec.Struct):
    type: str | None = None
    stream_id: str | None = None


_MESSAGE: Final = msgspec.json.Decoder(_Message)


def stream_of(body: bytes) -> str | None:
    """Return the `stream_id` of a client's message, None where it has none."""
    try:
        return _MESSAGE.decode(body).stream_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class SocketDialect(ResponsesDialect):
    """The messages of a connection; a `Dialect`."""

    name = SOCKET
    endpoints = (Endpoint(RESPONSES, RESPONSES, "GET", header="Sec-WebSocket-Key"),)
    creations = ()  # nothing here goes on in the background

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        return False

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        if UPGRADE not in head.headers:
            raise BadRequest("This is a WebSocket: connect with 'Upgrade: websocket', or POST your request.")
        try:
            kind = _MESSAGE.decode(body).type
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kind = CREATE  # what is wrong with it is said below
        if kind != CREATE:
            raise BadRequest(f"Only messages of the type '{CREATE}' are served here.", "type")
        parsed = parse(RESPONSES, body, self._bounds)
        stored = parsed.stored or Stored()
        if stored.background:
            raise BadRequest("A response on a WebSocket can't be in the background: POST it.", "background")
        stored = msgspec.structs.replace(stored, creation=RESPONSES_CREATION)
        return msgspec.structs.replace(parsed, stream=True, stored=stored)
