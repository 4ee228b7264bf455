"""A provider's WebSocket as a transport: each message that is sent is a request, its answer a stream of events.

What comes as messages is given on as server-sent events, so that all that reads a stream reads this one. One connection
at a time, kept from one request to the next, because a provider knows responses on it that it does not store. An answer
that is not read to its end closes it, and stops the provider; so does one that an error has ended: more of it may
follow. Between two answers pings are answered, messages are nobody's, and what the provider closes is not used again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp
import msgspec
from aiohttp import WSCloseCode
from msgspec import Raw
from multidict import CIMultiDict

from gateway.upstream.base import (
    IteratedResponse,
    UpstreamCut,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamUnreachable,
)

if TYPE_CHECKING:
    from gateway.upstream.base import RawHeaders

ERROR: Final = "error"
ERRORS: Final = range(400, 600)
_LINE: Final = re.compile(r"[\r\n]")
# Of what a request over HTTP carries, in lower case; it would say nothing true of a connection.
_LEFT_OUT: Final = frozenset({"content-type", "accept-encoding", "accept", "idempotency-key"})
# Codes by which a provider closes because of what the client sent, and what they are over HTTP: its health is not worse
# for them.
_REFUSALS: Final[dict[int, HTTPStatus]] = {
    WSCloseCode.UNSUPPORTED_DATA: HTTPStatus.BAD_REQUEST,
    WSCloseCode.INVALID_TEXT: HTTPStatus.BAD_REQUEST,
    WSCloseCode.MESSAGE_TOO_BIG: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}
_TEXT: Final = frozenset({aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY})


@dataclass(frozen=True, slots=True)
class SocketRules:
    """The bounds of a connection to a provider. Seconds; `max_event_bytes` of one message; `ends` are the types of
    messages that end an answer."""

    connect_s: float
    silence_s: float
    max_event_bytes: int
    ends: frozenset[str]


class _Message(msgspec.Struct):
    type: str | None = None
    status: int | None = None
    error: Raw = Raw(b"null")


_MESSAGE: Final = msgspec.json.Decoder(_Message)


class SocketTransport:
    """One client's way to providers; a `base.Transport`. Requests are sent one after the other."""

    def __init__(self, session: aiohttp.ClientSession, rules: SocketRules) -> None:
        self._session = session
        self.rules = rules
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._to: tuple[str, bytes] | None = None
        self._answer: SocketAnswer | None = None
        self._closed = False
        self._idle: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[bool]] = set()

    async def send(self, request: UpstreamRequest) -> SocketAnswer:
        """Return the answer, once its first message is here. Raises `UpstreamError`."""
        try:
            socket = await self._connected(request)
        except aiohttp.WSServerHandshakeError as error:
            return SocketAnswer.refused(self, error.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UpstreamUnreachable(f"no connection: {type(error).__name__}") from error
        self._answer = answer = SocketAnswer(self, socket)
        try:
            async with asyncio.timeout(self.rules.silence_s):
                await socket.send_str(request.body.decode())
            return await answer.head()
        except asyncio.CancelledError:
            request.pending = answer
            raise
        except (ConnectionError, TimeoutError) as error:
            answer.release()
            raise UpstreamUnreachable("the connection broke") from error
        except Exception:
            answer.release()
            raise

    async def _connected(self, request: UpstreamRequest) -> aiohttp.ClientWebSocketResponse:
        """Return the connection to where this request goes: the one that is open, or a new one."""
        to = (request.url, _header(request.headers, b"authorization"))
        idle, self._idle = self._idle, None
        gone = idle is not None and idle.done()
        if idle is not None:
            idle.cancel()
            await asyncio.wait([idle])
        if self._socket is not None and (gone or self._to != to or self._socket.closed):
            self.discard(self._socket)
        if self._socket is None:
            async with asyncio.timeout(self.rules.connect_s):
                self._socket = await self._session.ws_connect(
                    request.url,
                    headers=_headers(request.headers),
                    max_msg_size=self.rules.max_event_bytes,
                    timeout=aiohttp.ClientWSTimeout(ws_close=self.rules.connect_s),
                )
            self._to = to
        return self._socket

    def ended(self, answer: SocketAnswer) -> None:
        """Note that nobody reads this answer any more."""
        if self._answer is answer:
            self._answer = None
        if self._answer is not None or self._socket is None:
            return
        if self._closed:
            self.discard(self._socket)
        elif self._idle is None:
            self._idle = asyncio.create_task(_listen(self._socket))

    def discard(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Close a connection, without waiting for it."""
        if self._socket is socket:
            self._socket = None
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
        task = asyncio.create_task(socket.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the connection; where an answer is still read on, when that has ended."""
        self._closed = True
        if self._answer is None and self._socket is not None:
            self.discard(self._socket)


class _Closed(UpstreamCut):
    """The connection has ended; `code` is what the provider closed it with, None where it did not say."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the connection ended: {code}")
        self.code = code


async def _listen(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Answer pings and drop messages until the connection ends."""
    while (await socket.receive()).type in _TEXT:
        pass


class SocketAnswer(IteratedResponse):
    """The answer to one message: an `UpstreamResponse`, and a `Pending` until its first message is here. An error that
    comes first is an answer with that status, else it ends the stream."""

    def __init__(self, transport: SocketTransport, socket: aiohttp.ClientWebSocketResponse | None) -> None:
        super().__init__()
        self._transport = transport
        self._socket = socket
        self._first = b""
        self._begun = False
        self._ended = False
        self._spoilt = False
        self._released = False
        self._status = 200

    @classmethod
    def refused(cls, transport: SocketTransport, status: int) -> SocketAnswer:
        """Return the answer of a provider that has refused the connection with an HTTP status."""
        made = cls(transport, None)
        made._status, made._begun, made._ended = _status_of(status), True, True
        message = f"The provider refused the WebSocket with the status {status}: POST /v1/responses instead."
        error = {"message": message, "type": "server_error", "param": None, "code": "upstream_error"}
        made._first = msgspec.json.encode({"error": error})
        return made

    @property
    def status(self) -> int:
        """Return 200, or the status of the error that came in place of an answer."""
        return self._status

    @property
    def headers(self) -> RawHeaders:
        """Return the head that a stream over HTTP would have."""
        return [(b"content-type", b"text/event-stream" if self._status == HTTPStatus.OK else b"application/json")]

    async def head(self) -> SocketAnswer:
        """Wait for the first message. Raises `UpstreamError`."""
        if not self._begun:
            try:
                text, message = await self._next()
            except _Closed as closed:
                if closed.code not in _REFUSALS:
                    raise
                self.release()
                return self.refused(self._transport, _REFUSALS[closed.code])
            self._begun = True
            if message.type == ERROR:
                self._status = _status_of(message.status)
                self._first = msgspec.json.encode({"error": message.error})
            else:
                self._first = _event(text, message)
        return self

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the events. Raises `UpstreamError` where the connection ends before the answer."""
        first, self._first = self._first, b""
        if first:
            yield first
        while not self._ended:
            text, message = await self._next()
            self._spoilt = message.type == ERROR
            yield _event(text, message)

    def release(self) -> None:
        """Leave the connection to the next request where this answer has come to its end; else close it."""
        if self._released:
            return
        self._released = True
        if self._socket is not None and (self._spoilt or not self._ended):
            self._transport.discard(self._socket)
        self._transport.ended(self)

    async def _next(self) -> tuple[str, _Message]:
        """Return the next message, as text and read."""
        if self._released or self._socket is None:
            raise UpstreamCut("the answer was released before its end")
        silence_s = self._transport.rules.silence_s
        try:
            async with asyncio.timeout(silence_s):
                message = await self._socket.receive()
        except TimeoutError as error:
            raise UpstreamTimeout(f"silent for {silence_s:g} s") from error
        if message.type not in _TEXT:
            raise _Closed(message.data if message.type is aiohttp.WSMsgType.CLOSE else None)
        data = message.data if isinstance(message.data, bytes) else message.data.encode()
        try:
            event = _MESSAGE.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamCut("a message that is no event") from error
        self._ended = event.type in self._transport.rules.ends or event.type == ERROR
        return data.decode("utf-8", "replace"), event


def _status_of(status: int | None) -> int:
    """Return the HTTP status of an error that the provider has sent; 502 if that is no status of an error."""
    return status if status is not None and status in ERRORS else HTTPStatus.BAD_GATEWAY


def _event(text: str, message: _Message) -> bytes:
    """Return a message as a server-sent event of one line: what breaks lines in JSON is space between its values, and
    a message may be nothing else."""
    name = "" if message.type is None or _LINE.search(message.type) else f"event: {message.type}\n"
    line = text.replace("\r", " ").replace("\n", " ")
    return f"{name}data: {line}\n\n".encode()


def _headers(lines: bytes) -> CIMultiDict[str]:
    """Return the headers of a request, but for those of its body."""
    pairs = (line.decode("latin-1").partition(": ") for line in lines.split(b"\r\n") if line)
    return CIMultiDict((name, value) for name, _, value in pairs if name.lower() not in _LEFT_OUT)


def _header(lines: bytes, wanted: bytes) -> bytes:
    return next((line for line in lines.split(b"\r\n") if line.lower().startswith(wanted + b":")), b"")
