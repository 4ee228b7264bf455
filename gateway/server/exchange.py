"""One exchange: a client's request to a metered endpoint, and the answer to it, written as bytes.

This file owns what an answer looks like on the wire: its framing (a length, chunks, or the connection's end for
HTTP/1.0), and that a broken one can't pass for a whole one. How requests are framed is aiohttp's
(`gateway.server.edge`).
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from io import BytesIO
from typing import Final, Literal

from aiohttp import EMPTY_PAYLOAD, ClientConnectionResetError, HttpVersion11, StreamReader
from aiohttp.hdrs import CONTENT_ENCODING, EXPECT
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestPayloadError
from multidict import CIMultiDictProxy

from billing.api.requests import CONTINUE
from billing.codings import BadCoding, Decoder, decoder_of
from billing.errors import MetergateError
from gateway.server.cors import Cors
from gateway.server.paced import LARGE_PIECE_BYTES, PacedProtocol

RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
CONTINUES: Final = "100-continue"
LAST_CHUNK: Final = b"0\r\n\r\n"
WRITE_TIMEOUT_S: Final = 60.0
"""Where nobody says another `write_timeout_s`."""
LOOKS: Final = 8
"""How often it is looked, within that time, whether a client that has to catch up has taken anything."""

Cut = Literal["client_stalled", "max_request_s", "hold_closed"]
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


Watch = Callable[[int], Awaitable[None]]


class BodyTooLarge(MetergateError):
    """The body is above its bound, decoded or not."""


class BadBody(MetergateError):
    """The body broke off or can't be decoded; the message is for the client."""


class ClientGone(MetergateError):
    """The client has closed its connection."""


class Exchange:
    """Read the body, then `answer`, or `begin`, `put` and `end`; `abort` and `cut` cut. `begun` says that an answer was
    begun, `whole` that it was written to its end, `cut_for` why it was cut. A client that takes nothing for
    `write_timeout_s` while bytes wait for it is cut off."""

    __slots__ = (
        "_chunked",
        "_cors",
        "_head",
        "_in_chunks",
        "_protocol",
        "_watch",
        "account",
        "begun",
        "cut_for",
        "endpoint",
        "headers",
        "keep_alive",
        "path",
        "payload",
        "raw_headers",
        "version",
        "whole",
        "write_timeout_s",
    )

    def __init__(
        self,
        protocol: PacedProtocol,
        message: RawRequestMessage,
        payload: StreamReader,
        endpoint: str,
        cors: Cors | None = None,
    ) -> None:
        """`cors` is what browsers are told; None where they are told nothing."""
        self._protocol = protocol
        self.payload = payload
        self._head: bytes | None = None
        self._chunked = False
        self._in_chunks = message.chunked
        self._cors = cors
        self.endpoint = endpoint
        self.path = message.path
        """As the client asked for it, with its query string."""
        self.account = ""
        """Whose a body is that does not come with its head."""
        self.headers: CIMultiDictProxy[str] = message.headers
        self.raw_headers = message.raw_headers
        self.version = message.version
        self.keep_alive = not message.should_close
        self.begun = False
        self.whole = False
        self.cut_for: Cut | None = None
        self.write_timeout_s = WRITE_TIMEOUT_S
        self._watch: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> str:
        """The address of whoever has the connection; empty where it has none, or has ended."""
        transport = self._protocol.transport
        name = None if transport is None else transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    def here(self, limit_bytes: int) -> bytes | None:
        """The body where all of it has arrived with its head and is plain, as small ones are; None where `read` must
        see to it. Raises `BodyTooLarge`."""
        payload = self.payload
        if payload.at_eof() or not payload.is_eof() or CONTENT_ENCODING in self.headers:
            return None
        if payload.exception() is not None:
            return None
        body = payload.read_nowait()
        if len(body) > limit_bytes:
            raise BodyTooLarge
        return body

    @property
    def declared_bytes(self) -> int:
        """How long the body is on the wire, by its head; 0 where that does not say it."""
        return int(self.headers.get("Content-Length", "0"))

    async def read(self, limit_bytes: int, timeout_s: float | None = None, watch: Watch | None = None) -> bytes:
        """The whole body, decoded. Raises `BodyTooLarge`, and `BadBody` also where it is not here in time.

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
        except RequestPayloadError as error:
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
        """The whole answer. `lines` are its headers but for framing, date and connection, each with its CRLF."""
        payload = self.payload
        if payload.exception() is not None or (self._in_chunks and not payload.is_eof()):
            self.keep_alive = False  # where a spoilt body ends can't be told, nor in time what is behind a chunked one
        self.begun, self._head = True, None
        head = self._head_of(status, lines, b"Content-Length: %d\r\n" % len(body))
        with suppress(ClientGone):  # nobody is there to be told
            self._write(head + body)
        self.whole = True

    @property
    def unsent(self) -> bool:
        """Whether an answer was begun of which nothing is out yet: another one can still be given."""
        return self._head is not None

    def begin(self, status: int, lines: bytes) -> None:
        """Begin an answer that is written piece by piece; its head goes out with the first piece."""
        self.begun = True
        self._chunked = self.version >= HttpVersion11
        if not self._chunked:
            self.keep_alive = False
        self._head = self._head_of(status, lines, b"Transfer-Encoding: chunked\r\n" if self._chunked else b"")

    def put(self, data: bytes) -> bool:
        """A piece of the answer; False where the client can not take more before `flushed`. Raises `ClientGone`."""
        head, self._head = self._head, None
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._write(head + data if head is not None else data)
        return not self._protocol._paused

    async def end(self, last: bytes) -> None:
        """The last piece, which may be empty, and the answer's end in one. Raises `ClientGone`."""
        head, self._head = self._head or b"", None
        if self._chunked:
            last = b"%x\r\n%b\r\n%b" % (len(last), last, LAST_CHUNK) if last else LAST_CHUNK
        self._write(head + last)
        self.whole = True
        if self._protocol._paused:
            await self._drained()

    @property
    def waits(self) -> bool:
        """Whether more was written than the client has taken so far, so that `flushed` would wait."""
        return self._protocol._paused

    async def flushed(self) -> None:
        """Until the client has taken what was written, or has left."""
        if self._protocol._paused:
            with suppress(ClientGone):
                await self._drained()

    async def _drained(self) -> None:
        try:
            with self.watched():
                await self._protocol._drain_helper()
        except (ClientConnectionResetError, ConnectionResetError) as error:
            raise ClientGone from error

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Cut the client off where it takes nothing for `write_timeout_s` of what waits for it, while this is open."""
        protocol = self._protocol
        if protocol.transport is not None:
            self._look(protocol.transport.get_write_buffer_size(), protocol._loop.time())
        try:
            yield
        finally:
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None

    def _look(self, waiting_bytes: int, since_s: float) -> None:
        """Cut a client off that has taken nothing for too long; `waiting_bytes` have been waiting for it since then.
        Only bytes that left count: it may read too slowly ever to catch up, but it must read."""
        protocol, transport = self._protocol, self._protocol.transport
        self._watch = None
        if transport is None:
            return
        now_s, left_bytes = protocol._loop.time(), transport.get_write_buffer_size()
        if left_bytes < waiting_bytes:
            waiting_bytes, since_s = left_bytes, now_s
        elif now_s - since_s >= self.write_timeout_s:
            self.cut("client_stalled")
            return
        look_s = min(self.write_timeout_s / LOOKS, since_s + self.write_timeout_s - now_s)
        self._watch = protocol._loop.call_later(look_s, self._look, waiting_bytes, since_s)

    def _write(self, data: bytes) -> None:
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        transport.write(data)

    def _head_of(self, status: int, lines: bytes, framing: bytes) -> bytes:
        if self._protocol._close or self._protocol._force_close:
            self.keep_alive = False
        if not self.keep_alive:
            framing += b"Connection: close\r\n"
        elif self.version < HttpVersion11:
            framing += b"Connection: keep-alive\r\n"
        if self._cors is not None:
            framing += self._cors.lines(self.headers.get("Origin"))
        status_line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        return b"%b%b%bDate: %b\r\n\r\n" % (status_line, lines, framing, rfc822_formatted_time().encode())

    def cut(self, reason: Cut) -> None:
        """Break the connection off from outside of its task, which is cancelled as if the client had left."""
        self.cut_for = self.cut_for or reason
        self.abort()

    def hold_closed(self) -> None:
        """The hold of this request has ended elsewhere, and nothing of it can be charged: an answer that was begun is
        cut now. One that was not is refused when it comes."""
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
