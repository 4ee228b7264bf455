"""One request of a client's WebSocket, as an exchange: what is written as a stream of events goes out as messages.

This file owns that: an event is a message, an answer of another status an `error` message with that status, and an
answer that broke ends the connection, so that it can't pass for a whole one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.streaming import EVENT_END, event_data
from gateway.server.exchange import BodyTooLarge, ClientGone, Ended, Exchange

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.dialects.base import Match
    from gateway.server.exchange import Watch
    from gateway.upstream.base import Transport

OK: Final = 200
DONE: Final = b"[DONE]"
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])


class _Message(msgspec.Struct):
    stream_id: str | None = None


_MESSAGE: Final = msgspec.json.Decoder(_Message)


class FrameExchange(Exchange):
    """The message `body` of a client, and its answer."""

    __slots__ = ("_body", "_broken", "_partial", "_request", "_socket", "_stream_id", "_waiting")

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        match: Match,
        body: bytes,
        over: Transport,
        *,
        client_write_timeout_s: float,
    ) -> None:
        """`request` is the one that opened the connection; providers are asked `over` this."""
        self._socket = socket
        self._request = request
        self._body = body
        self._stream_id = _stream_of(body)
        self._head: bytes | None = None
        self._partial = bytearray()
        self._waiting: deque[bytes] = deque()
        self._broken = False
        self.payload = request.content
        self.match = match
        self.envelope = match.dialect
        self.path = request.raw_path
        self.account = ""
        self.headers = request.headers
        self.raw_headers = request.raw_headers
        self.version = request.version
        self.keep_alive = True
        self.begun = self.whole = False
        self.listener = None
        self.cut_for = None
        self.client_write_timeout_s = client_write_timeout_s
        self.over = over

    @property
    def peer(self) -> str:
        """Return the client's address."""
        return self._request.remote or ""

    def claim(self, account: str) -> bool:
        """Note whose message this is. Connections of WebSockets have bounds of their own."""
        self.account = account
        return True

    def here(self, limit_bytes: int) -> bytes | None:
        """Return the message. Raises `BodyTooLarge`."""
        if len(self._body) > limit_bytes:
            raise BodyTooLarge
        return self._body or None

    @property
    def declared_bytes(self) -> int:
        """Return how long the message is."""
        return len(self._body)

    async def read(self, limit_bytes: int, timeout_s: float | None = None, watch: Watch | None = None) -> bytes:
        """Return the message, which is empty where `here` gave none."""
        return self._body

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Give the whole answer: an error, or what the provider said in place of a stream."""
        if self.listener is not None:
            self.listener.began(status, lines)
            self.listener.wrote(body)
        self.begun, self._head = True, None
        if status == OK:
            self._waiting.append(body)
        else:
            error: dict[str, Any] = {"type": "error", "status": status, "error": _error_of(body)}
            error["headers"] = _headers_of(lines)
            if self._stream_id is not None:
                error["stream_id"] = self._stream_id
            self._waiting.append(msgspec.json.encode(error))
        self.whole = True

    def begin(self, status: int, lines: bytes) -> None:
        """Begin an answer that is written piece by piece; a connection has no head for each."""
        if self.listener is not None:
            self.listener.began(status, lines)
        self.begun, self._head = True, b""

    def put(self, data: bytes) -> bool:
        """Take a piece of a stream; False: wait for `flushed`. Raises `ClientGone`."""
        if self.listener is not None:
            self.listener.wrote(data)
        if self._broken or self._socket.closed:
            raise ClientGone
        self._head = None
        self._partial += data
        start = 0
        for match in EVENT_END.finditer(self._partial):
            event = event_data(bytes(self._partial[start : match.end()])).strip()
            start = match.end()
            if event and event != DONE:
                self._waiting.append(event)
        del self._partial[:start]
        return not self._waiting

    def finish(self, last: bytes) -> None:
        """Give the last events. Raises `ClientGone`."""
        self.put(last)
        self.whole = True

    @property
    def waits(self) -> bool:
        """Return whether there are messages that the client has not been sent."""
        return bool(self._waiting)

    async def flushed(self) -> None:
        """Send what waits, or find that the client has left; one that takes nothing is cut off."""
        while self._waiting and not self._broken:
            try:
                async with asyncio.timeout(self.client_write_timeout_s):
                    await self._socket.send_str(self._waiting.popleft().decode("utf-8", "replace"))
            except TimeoutError:
                self.cut("client_stalled")
            except (ConnectionError, RuntimeError):  # aiohttp's words for a connection that is closing
                self._broken = True

    @property
    def ended_for(self) -> Ended:
        """Return why the task was cancelled: `cut_for`, if it was set before; else the client has left."""
        return self.cut_for or "client_gone"

    def abort(self) -> None:
        """Break the connection off; whoever serves it is cancelled by that."""
        self._broken = True
        self.keep_alive = False
        if self._request.transport is not None:
            self._request.transport.abort()


def _stream_of(body: bytes) -> str | None:
    """Return what a client calls the stream of its message, None where it does not."""
    try:
        return _MESSAGE.decode(body).stream_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _headers_of(lines: bytes) -> dict[str, str]:
    """Return the headers of an answer by name, in lower case: a client reads there when it may ask again."""
    pairs = (line.split(": ", 1) for line in lines.decode("latin-1").split("\r\n") if ": " in line)
    return {name.lower(): value for name, value in pairs}


def _error_of(body: bytes) -> Raw:
    """Return the error in an answer's body; all of it where that has another shape."""
    try:
        return _FIELDS.decode(body)["error"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return Raw(msgspec.json.encode({"message": body[:1000].decode("utf-8", "replace"), "type": "server_error"}))
