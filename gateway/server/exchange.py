"""One exchange: a client's request to a metered endpoint, and the answer to it, written as bytes.

This file owns what an answer looks like on the wire: its framing (a length, chunks, or the connection's end for
HTTP/1.0), and that a broken one can't pass for a whole one. How requests are framed is aiohttp's
(`gateway.server.edge`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from aiohttp import EMPTY_PAYLOAD, ClientConnectionResetError, HttpVersion11, StreamReader, web
from aiohttp.hdrs import CONTENT_ENCODING, EXPECT

from billing.api.requests import CONTINUE
from billing.codings import BadCoding, Decoder, decoder_of
from billing.errors import MetergateError
from gateway.server.ids import date_now
from gateway.server.stalls import cut_where_stalled

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from gateway.dialects.base import Envelope, Match
    from gateway.server.cors import Cors
    from gateway.server.ports import ClientConnection, Head
    from gateway.upstream.base import Transport

RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
CONTINUES: Final = "100-continue"
LAST_CHUNK: Final = b"0\r\n\r\n"
# The default of `client_write_timeout_s`.
CLIENT_WRITE_TIMEOUT_S: Final = 60.0
Cut = Literal["client_stalled", "max_request_s", "hold_closed", "shutting_down"]
Ended = Cut | Literal["client_gone"]
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
# Less than this that is made of a body at once is not counted: requests as most are.
LARGE_PIECE_BYTES: Final = 16_384
Watch = Callable[[int], Awaitable[None]]
# Of a head that is remembered, by the identity of the rules and the account: the rules, which keeps their identity
# theirs, and what was made by them.
KeptFacts = dict[tuple[int, str], tuple[object, Any]]


# How many of them are kept of one head.
FACTS_KEPT: Final = 16


def keep_of_head(kept: KeptFacts, account_id: str, made: tuple[object, Any]) -> None:
    """Keep what was made of a head by rules, for an account."""
    if len(kept) >= FACTS_KEPT:
        kept.clear()
    kept[id(made[0]), account_id] = made


class BodyTooLarge(MetergateError):
    """The body is above its bound, decoded or not."""


class BadBody(MetergateError):
    """The body broke off or can't be decoded; the message is for the client."""


class FramingTooLarge(web.RequestPayloadError):
    """The chunks of a body are above its bound with what stands beside their bytes."""


class BodyTooSlow(web.RequestPayloadError):
    """A body comes more slowly than bodies must; the message is for the client."""


class ClientGone(MetergateError):
    """The client has closed its connection."""


class Listener(Protocol):
    """Who keeps what a client is sent (`gateway.body_logs.recording.Recording`)."""

    def began(self, status: int, lines: bytes) -> None: ...
    def wrote(self, data: bytes) -> None: ...
    def ended(self, cut: str | None = None) -> None: ...


class Exchange:
    """Read the body, then `answer`, or `begin`, `put` and `finish`; `abort` and `cut` cut. `begun` says that an answer
    was begun, `whole` that it was written to its end, `cut_for` why it was cut. A client that takes nothing for
    `client_write_timeout_s` while bytes wait for it is cut off."""

    __slots__ = (
        "_chunked",
        "_cors",
        "_head",
        "_in_chunks",
        "_protocol",
        "account",
        "begun",
        "client_write_timeout_s",
        "cut_for",
        "envelope",
        "headers",
        "keep_alive",
        "listener",
        "match",
        "over",
        "path",
        "payload",
        "raw_headers",
        "version",
        "whole",
    )

    key_digest: bytes | None = None
    """Of the key that it shows, where its head was remembered; `headers` are without the key then."""

    def __init__(
        self,
        protocol: ClientConnection,
        message: Head,
        payload: StreamReader,
        match: Match | None,
        cors: Cors | None = None,
        client_write_timeout_s: float = CLIENT_WRITE_TIMEOUT_S,
    ) -> None:
        """`match` is the endpoint that the request is sent to, None of what is no request; `cors` is what browsers are
        told, None where they are told nothing."""
        self._protocol = protocol
        self.payload = payload
        self._head: bytes | None = None
        self._chunked = False
        self._in_chunks = message.chunked
        self._cors = cors
        self.envelope: Envelope | None = None
        """How errors are written; None where no API is known."""
        if match is not None:
            self.match = match
            self.envelope = match.dialect
        self.over: Transport | None = None
        """What providers are asked over, in place of their own transports."""
        self.path = message.path
        """As the client asked for it, with its query string."""
        self.account = ""
        """Whose request this is, empty where that is not known."""
        self.headers: CIMultiDictProxy[str] = message.headers
        self.raw_headers = message.raw_headers
        self.version = message.version
        self.keep_alive = not message.should_close
        self.begun = False
        self.whole = False
        self.listener: Listener | None = None
        """Who keeps what the client is sent, where that is recorded."""
        self.cut_for: Cut | None = None
        self.client_write_timeout_s = client_write_timeout_s

    def claim(self, account: str) -> bool:
        """Note whose request this is. False where the account has its share of connections."""
        self.account = account
        return account == self._protocol.account or self._protocol.claim(account)

    @property
    def kept_facts(self) -> KeptFacts | None:
        """Return what was made of these headers, by which rules and for whom; None where nothing of them is kept."""
        return None

    def all_headers(self) -> CIMultiDictProxy[str]:
        """Return the headers with what shows the key."""
        return self.headers

    def remember(self, key_digest: bytes) -> None:
        """Note the digest of the key, which is usable."""

    @property
    def peer(self) -> str:
        """Return the client's address; empty where the connection has none, or has ended."""
        transport = self._protocol.transport
        name = None if transport is None else transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    def here(self, limit_bytes: int) -> bytes | None:
        """Return the body where all of it has arrived with its head and is plain, as small ones are; None where `read`
        must see to it. Raises `BodyTooLarge`."""
        payload = self.payload
        if not payload.is_eof() or CONTENT_ENCODING in self.headers or payload.exception() is not None:
            return None
        body = payload.read_nowait()
        if len(body) > limit_bytes:
            raise BodyTooLarge
        return body or None

    @property
    def declared_bytes(self) -> int:
        """Return how long the body is on the wire, by its head; 0 where that does not say it."""
        return int(self.headers.get("Content-Length", "0"))

    async def read(self, limit_bytes: int, timeout_s: float | None = None, watch: Watch | None = None) -> bytes:
        """Read the whole body, decoded. Raises `BodyTooLarge`, and `BadBody` also where it is not here in time.

        `watch` is awaited before what has come of the body grows to so many bytes; what it raises ends the reading.
        """
        payload = self.payload
        if payload is EMPTY_PAYLOAD:
            return b""
        if self.declared_bytes > limit_bytes:
            raise BodyTooLarge
        try:
            decoder = decoder_of(self.headers.get(CONTENT_ENCODING))
            expects = self.headers.get(EXPECT, "").lower() == CONTINUES
            if expects and self.version >= HttpVersion11 and not payload.is_eof():
                self._write(CONTINUE)
            async with asyncio.timeout(timeout_s):
                return await self._rest(limit_bytes, decoder, watch)
        except TimeoutError as error:
            raise BadBody(f"The body did not arrive within {timeout_s:g} s: send it faster.") from error
        except BadCoding as error:
            raise BadBody(str(error)) from error
        except FramingTooLarge as error:
            raise BodyTooLarge from error
        except BodyTooSlow as error:
            raise BadBody(str(error)) from error
        except web.RequestPayloadError as error:
            raise BadBody("The body could not be read: check its framing.") from error
        except (ConnectionError, ClientGone) as error:
            raise BadBody("The body broke off.") from error

    async def _rest(self, limit_bytes: int, decoder: Decoder | None, watch: Watch | None) -> bytes:
        payload = self.payload
        body = BytesIO()  # grows in place, and gives its bytes away without a copy
        size = coded_size = uncounted = 0
        while part := payload.read_nowait() if payload.is_eof() else await payload.readany():
            coded_size += len(part)
            if coded_size > limit_bytes:
                raise BodyTooLarge
            for piece in (part,) if decoder is None else decoder.feed(part):
                size += len(piece)
                if size > limit_bytes:
                    raise BodyTooLarge
                if watch is not None:
                    await watch(size)
                body.write(piece)
                uncounted += len(piece)
                if decoder is not None and uncounted >= LARGE_PIECE_BYTES:
                    await self._protocol.made(uncounted, self.account)
                    uncounted = 0
                if decoder is not None or self._in_chunks:
                    await asyncio.sleep(0)  # a little makes much work: others have their turn in between
            if payload.at_eof():
                break
        if decoder is not None:
            decoder.end()
        return body.getvalue()

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Write the whole answer. `lines` are its headers but for framing, date and connection, each with its CRLF."""
        if self.listener is not None:
            self.listener.began(status, lines)
            self.listener.wrote(body)
        payload = self.payload
        if payload.exception() is not None or (self._in_chunks and not payload.is_eof()):
            self.keep_alive = False  # where a spoilt body ends can't be told, nor in time what is behind a chunked one
        self.begun, self._head = True, None
        whole = self._head_of(status, lines, b"Content-Length: %d\r\n" % len(body), body)
        transport = self._protocol.transport
        if transport is not None and not transport.is_closing():  # else no client is there to receive it
            transport.write(whole)
        self.whole = True

    @property
    def unsent(self) -> bool:
        """Return whether an answer was begun of which nothing is out yet: another one can still be given."""
        return self._head is not None

    def begin(self, status: int, lines: bytes) -> None:
        """Begin an answer that is written piece by piece; its head goes out with the first piece."""
        if self.listener is not None:
            self.listener.began(status, lines)
        self.begun = True
        self._chunked = self.version >= HttpVersion11
        if not self._chunked:
            self.keep_alive = False
        self._head = self._head_of(status, lines, b"Transfer-Encoding: chunked\r\n" if self._chunked else b"")

    def put(self, data: bytes) -> bool:
        """Write a piece of the answer; False: wait for `flushed` before the next. Raises `ClientGone`."""
        if self.listener is not None:
            self.listener.wrote(data)
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head is not None:
            data, self._head = self._head + data, None
        protocol = self._protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        transport.write(data)
        return not protocol._paused

    def finish(self, last: bytes) -> None:
        """Write the last piece, which may be empty, and the answer's end in one. Raises `ClientGone`."""
        if self.listener is not None:
            self.listener.wrote(last)
        head, self._head = self._head or b"", None
        if self._chunked:
            last = b"%x\r\n%b\r\n%b" % (len(last), last, LAST_CHUNK) if last else LAST_CHUNK
        self._write(head + last)
        self.whole = True

    @property
    def waits(self) -> bool:
        """Return whether more was written than the client has taken so far, so that `flushed` would wait."""
        return self._protocol._paused

    async def flushed(self) -> None:
        """Wait until the client has taken what was written, or has left."""
        if self._protocol._paused:
            with suppress(ClientGone):
                await self._drained()

    async def _drained(self) -> None:
        protocol, cut = self._protocol, partial(self.cut, "client_stalled")
        try:
            with cut_where_stalled(protocol.transport, protocol._loop, self.client_write_timeout_s, cut):
                await protocol._drain_helper()
        except (ClientConnectionResetError, ConnectionResetError) as error:
            raise ClientGone from error

    def _write(self, data: bytes) -> None:
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        transport.write(data)

    def _head_of(self, status: int, lines: bytes, framing: bytes, body: bytes = b"") -> bytes:
        """Return the head of an answer, and what is known of its body with it."""
        protocol = self._protocol
        if protocol._close or protocol._force_close or protocol._leaves:
            self.keep_alive = False
        if not self.keep_alive:
            framing += b"Connection: close\r\n"
        elif self.version is not HttpVersion11 and self.version < HttpVersion11:
            framing += b"Connection: keep-alive\r\n"
        if self._cors is not None:
            framing += self._cors.lines(self.headers.get("Origin"))
        status_line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        return b"".join((status_line, lines, framing, b"Date: ", date_now(), b"\r\n\r\n", body))

    def cut(self, reason: Cut) -> None:
        """Break the connection off from outside of its task, which is cancelled as if the client had left."""
        self.cut_for = self.cut_for or reason
        self.abort()

    @property
    def ended_for(self) -> Ended:
        """Return why its task was cancelled: it was cut, its client has left, or the server stops. That alone ends a
        request whose client is there; aiohttp's own connections tell the body of it, and close first."""
        if self.cut_for is not None:
            return self.cut_for
        transport, told = self._protocol.transport, isinstance(self.payload.exception(), asyncio.CancelledError)
        left = transport is None or transport.is_closing()
        return "client_gone" if left and not told else "shutting_down"

    def hold_closed(self) -> None:
        """End the request, whose hold has ended elsewhere: nothing of it can be charged. An answer that was begun is
        cut now. One that was not begun is refused when it comes."""
        if self.begun:
            self.cut("hold_closed")

    def abort(self) -> None:
        """Break the connection off, so that what the client has got can't pass for a whole answer.

        To HTTP/1.0 a body without a length ends where its connection ends: there only a reset tells the difference.
        """
        self.keep_alive = False
        transport = self._protocol.transport
        if transport is None:
            return
        connection = transport.get_extra_info("socket")
        if self.version < HttpVersion11 and connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        transport.abort()


class Written(web.StreamResponse):
    """Stands, where aiohttp wants a response, for an answer that an exchange has written."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange = exchange

    @property
    def keep_alive(self) -> bool | None:
        """Return whether the connection serves another request."""
        return self._exchange.keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send nothing: all of it is sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing: all of it is sent."""


class Begun(Protocol):
    """A request that is being served (`gateway.proxy.course.Course`). It is told once where its client leaves, or is
    cut off."""

    def left(self) -> None: ...


class Metered(Protocol):
    """Who serves requests to metered endpoints (`gateway.proxy.handler.Proxy`): one is begun, and `on_over` called once
    nothing more is written to its client; or it is awaited, and cancelled where its client leaves."""

    def begin(self, exchange: Exchange, on_over: Callable[[], None]) -> Begun: ...
    async def handle(self, exchange: Exchange) -> None: ...
