"""The front: a client's connection as long as its requests are metered and plain.

Most requests are a known head and a small body. Such a connection reads them itself, by the length that the head says,
and serves them in order. Whatever it is not sure of it gives away, with all that has come of it: a connection of
aiohttp's (`gateway.server.connection`) takes its place, and gives way to it again when the next plain request comes
and nothing else waits. So everything unusual is read, bounded and refused in one place, which is not this one.

What clients may cost here is bounded as it is there. A body has BODY_S to come; what is slower is given away and paced
there. What comes while a request is served is held, counts among heads that are not whole, and is read on only up to
HELD_BYTES.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import httptools
from aiohttp import EMPTY_PAYLOAD, ClientConnectionResetError, HttpVersion11

from billing.addresses import FORWARDED_HEADER
from gateway.server import refusals
from gateway.server.bodies import UNCOUNTED_BYTES
from gateway.server.exchange import BodyTooLarge, Exchange, KeptFacts, Watch
from gateway.server.known_heads import HEAD_BYTES
from gateway.server.stalls import HalfClosed, may_be_half_closed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from aiohttp import web
    from multidict import CIMultiDictProxy

    from gateway.server.clients import Awaited
    from gateway.server.connection import EdgeProtocol
    from gateway.server.exchange import Begun
    from gateway.server.guard import EdgeRules, Shared
    from gateway.server.known_heads import KnownHead, KnownHeads

# The largest request that is read here.
MOST_BYTES: Final = HEAD_BYTES + UNCOUNTED_BYTES
# For how long the rest of a body is awaited here.
BODY_S: Final = 0.25
# Of what comes while a request is served, what is read before its turn.
HELD_BYTES: Final = 16_384
MOST_DIGITS: Final = len(str(UNCOUNTED_BYTES))
HEAD_END: Final = b"\r\n\r\n"
# The own API, none of whose requests are for the front: to read their heads twice would cost 15 us each.
OWN_API: Final = b"POST /api/"
# A length as clients spell it.
LENGTHS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Front:
    """What the connections of the front have together. `behind` makes one of aiohttp's, of the same `server`."""

    server: web.Server
    behind: Callable[[], EdgeProtocol]
    begin: Callable[[Exchange, Callable[[], None]], Begun]
    heads: KnownHeads
    rules: EdgeRules
    shared: Shared
    new_id: Callable[[], str]
    keepalive_s: float
    loop: asyncio.AbstractEventLoop

    def enter(self, connection: FrontProtocol, transport: asyncio.Transport) -> None:
        """Count a connection."""
        self.shared.clients.enter(connection)
        self.server.connection_made(cast("Any", connection), transport)

    def leave(self, connection: FrontProtocol, error: BaseException | None) -> None:
        """Count it no longer."""
        self.shared.clients.leave(connection)
        self.server.connection_lost(cast("Any", connection), error)

    def takes_back(self, behind: EdgeProtocol, data: bytes) -> bool:
        """Go on with a connection of aiohttp's on which nothing waits but `data`, where that is for the front."""
        transport, account = behind.transport, behind.account
        if transport is None or not transport.is_reading() or not self._serves(data):
            return False  # a slice of what is held comes with reading paused, which nobody here would resume
        behind.part()
        FrontProtocol(self).take_over(transport, account, data)
        return True

    def _serves(self, data: bytes) -> bool:
        if len(data) > MOST_BYTES:
            return False
        lines, length, _ = split(data)
        heads = self.heads
        return 0 < length <= UNCOUNTED_BYTES and (heads.get(heads.digest(lines)) or heads.read(lines)) is not None


class Taken(NamedTuple):
    """A request whose body is on its way: its head, and by what that is remembered; all lines of it but its length; how
    many bytes head and body have."""

    head: KnownHead
    digest: bytes
    lines: bytes
    head_bytes: int
    length: int

    def __repr__(self) -> str:
        return f"Taken({self.wanted_bytes} bytes)"  # the key is in its lines

    @property
    def wanted_bytes(self) -> int:
        """Return how many bytes make it whole."""
        return self.head_bytes + self.length


class WholeExchange(Exchange):
    """An exchange whose request was here whole when it began."""

    __slots__ = ("_body", "_digest", "_known", "_lines", "key_digest")

    def __init__(self, front: FrontProtocol, head: KnownHead, digest: bytes, lines: bytes, body: bytes) -> None:
        rules = front.front.rules
        self._protocol = front
        self.payload = EMPTY_PAYLOAD
        self._head = None
        self._chunked = self._in_chunks = False
        self._cors = rules.cors
        self.match = match = head.match
        self.envelope = match.dialect
        self.over = None
        self.path = head.path
        self.account = ""
        self.headers = head.headers
        self.raw_headers = head.raw_headers
        self.version = HttpVersion11
        self.keep_alive = True
        self.begun = self.whole = False
        self.listener = None
        self.cut_for = None
        self.client_write_timeout_s = rules.client_write_timeout_s
        self._known = head
        self._digest = digest
        self._lines = lines
        self._body = body
        self.key_digest = head.key_digest

    @property
    def kept_facts(self) -> KeptFacts | None:
        """Return what was made of these headers; None where they are not remembered."""
        return self._known.kept_facts if self._known.key_digest is not None else None

    def all_headers(self) -> CIMultiDictProxy[str]:
        """Return the headers with what shows the key, which is read again where the head was remembered."""
        if self._known.key_digest is None:
            return self.headers
        head = cast("FrontProtocol", self._protocol).front.heads.read(self._lines)
        return self.headers if head is None else head.headers  # it is one: it was read before

    def remember(self, key_digest: bytes) -> None:
        """Note the digest of the key, which is usable."""
        if self._known.key_digest != key_digest:
            heads = cast("FrontProtocol", self._protocol).front.heads
            heads.remember(self._digest, self._known, key_digest)

    def here(self, limit_bytes: int) -> bytes:
        """Return the body. Raises `BodyTooLarge`."""
        body, self._body = self._body, b""
        if len(body) > limit_bytes:
            raise BodyTooLarge
        return body

    @property
    def declared_bytes(self) -> int:
        """Return how long the body is."""
        return len(self._body)

    async def read(self, limit_bytes: int, timeout_s: float | None = None, watch: Watch | None = None) -> bytes:
        """Return the body. Raises `BodyTooLarge`."""
        return self.here(limit_bytes)

    def begin(self, status: int, lines: bytes) -> None:
        """Begin an answer that is written piece by piece; nobody asks for the key any more."""
        self._lines = b""
        super().begin(status, lines)


class FrontProtocol(asyncio.Protocol):
    """One connection of a client. Its requests are served in order: each is begun, and told of as it is over.

    Names are those of `gateway.server.ports`, and of what servers ask of their connections.
    """

    _task_handler = None
    """What servers wait for when the connection is lost."""

    __slots__ = (
        "__weakref__",
        "_awaited",
        "_begun",
        "_body_timer",
        "_close",
        "_ended",
        "_eof",
        "_exchange",
        "_flushing",
        "_force_close",
        "_held",
        "_idle_timer",
        "_idle_until_s",
        "_last_s",
        "_loop",
        "_paused",
        "_paused_since_s",
        "_peer",
        "_reading_paused",
        "_served",
        "_since_s",
        "_trusted",
        "_unread_bytes",
        "_wire",
        "_writable",
        "account",
        "address",
        "front",
        "refused",
        "transport",
    )

    def __init__(self, front: Front) -> None:
        self.front = front
        self._loop = front.loop
        self.transport: asyncio.Transport | None = None
        self._wire: asyncio.Transport | None = None
        """The transport until it is lost, also while it closes."""
        self.address = self.account = self._peer = ""
        self._trusted = self.refused = False
        self._exchange: WholeExchange | None = None
        """The request that is served, or is next."""
        self._begun: Begun | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._held = b""
        """What has come of the next request."""
        self._awaited: Taken | None = None
        """Whose body is on its way."""
        self._close = self._force_close = self._eof = self._served = False
        self._paused = self._reading_paused = False
        self._since_s = self._last_s = self._paused_since_s = self._idle_until_s = 0.0
        self._unread_bytes = 0
        self._writable: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None

    # What comes.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection for its address."""
        self.transport = self._wire = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self.address, self._trusted = self.front.shared.clients.place(self._peer)
        self.front.enter(self, self.transport)
        self._rest()

    def data_received(self, data: bytes) -> None:
        """Serve a request that is plain and here, keep what has come of one, or give the connection away."""
        if self._exchange is not None:
            self._hold(data)
            return
        awaited = self._awaited
        if awaited is None:
            self._take(data)
            return
        data = self._held + data
        if len(data) < awaited.wanted_bytes:
            self._keep(data)
            return
        self._let_go()
        body, behind = data[awaited.head_bytes : awaited.wanted_bytes], data[awaited.wanted_bytes :]
        self._begin(WholeExchange(self, awaited.head, awaited.digest, awaited.lines, body), behind)

    def _take(self, data: bytes, *, later: bool = False) -> None:
        """Serve the request that `data` begins with, or await the rest of it, or give all of it away; with `later` it
        is begun in a turn of its own."""
        if len(data) <= MOST_BYTES:
            lines, length, body = split(data)
            if 0 < length <= UNCOUNTED_BYTES:
                heads = self.front.heads
                digest = heads.digest(lines)
                head = heads.get(digest) or heads.read(lines)
                if head is not None:
                    if len(body) == length:
                        self._begin(WholeExchange(self, head, digest, lines, body), later=later)
                    elif len(body) > length:
                        self._begin(WholeExchange(self, head, digest, lines, body[:length]), body[length:], later=later)
                    else:
                        self._awaited = Taken(head, digest, lines, len(data) - len(body), length)
                        self._body_timer = self._loop.call_later(BODY_S, self._late)
                        self._since_s = self._loop.time()
                        self._keep(data)
                    return
        self._give_away(data)

    def _keep(self, data: bytes) -> None:
        """Keep what has come of a request; it counts among heads that are not whole."""
        more_bytes = len(data) - len(self._held)
        self._held, self._last_s = data, self._loop.time()
        self.front.shared.heads.add(self, more_bytes)

    def _hold(self, data: bytes) -> None:
        """Keep what has come behind the request that is served."""
        if self._close or self._force_close:
            return
        self._held += data
        if len(self._held) > HELD_BYTES and not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()
        self.front.shared.heads.add(self, len(data))

    def _let_go(self) -> bytes:
        """Return what has come of a request, and keep it no longer."""
        held, self._held, self._awaited = self._held, b"", None
        if held:
            self.front.shared.heads.drop(self)
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        return held

    def end_head(self) -> None:
        """Keep no more of a request that is not whole: all of them together are too large."""
        held = self._let_go()
        if self._exchange is not None:
            self._close = True
        elif not self._close:
            self._give_away(held)
        else:
            self.force_close()

    def _late(self) -> None:
        """Give a body away that comes slowly; who stops waits for it here."""
        self._body_timer = None
        if not self._close:
            self._give_away(self._let_go())

    def _give_away(self, data: bytes) -> None:
        """Have a connection of aiohttp's go on, with what has come of its next request."""
        transport, account = self.transport, self.account
        if transport is None:
            return
        if self._close or transport.is_closing():
            self.force_close()
            return
        self._leave()
        if self._reading_paused:
            transport.resume_reading()
        behind = self.front.behind()
        transport.set_protocol(behind)
        behind.connection_made(transport)
        if self._paused:
            behind.pause_writing()
        if account:
            behind.claim(account)
        behind.data_received(data)
        if self._eof and not behind.eof_received():
            transport.close()

    def _leave(self, error: BaseException | None = None) -> None:
        """Have nothing more to do with the connection."""
        self.transport = self._wire = None
        self._let_go()
        self.front.leave(self, error)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def take_over(self, transport: asyncio.Transport, account: str, data: bytes) -> None:
        """Go on with a connection of aiohttp's, on which nothing waits but the plain request that `data` is of."""
        self._served = True
        transport.set_protocol(self)
        self.connection_made(transport)
        if account:
            self.claim(account)
        self.data_received(data)

    def eof_received(self) -> bool:
        """Take note that the client sends no more. Where it may wait for answers all the same, they are served, and the
        connection ends with the last of them; True for that."""
        transport = self.transport
        if transport is None or self.unanswered is None or not may_be_half_closed(transport):
            return False
        if self._held and not are_whole(self._held):
            return False
        self._eof = True
        self._close = not self._held
        HalfClosed(self, self._loop)
        return True

    @property
    def unanswered(self) -> Exchange | None:
        """Return the request that is being served, where nothing of its answer is out."""
        exchange = self._exchange
        return exchange if exchange is not None and (not exchange.begun or exchange.unsent) else None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the request of a client that has left; what is on its way is settled or given back."""
        self._force_close = True
        waiter, self._writable = self._writable, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(ClientConnectionResetError("Connection lost"))
        self._leave(exc)
        if self._begun is not None:
            self._begun.left()
        elif self._flushing is None:
            self._exchange = None  # it was not begun

    # What is served.

    def _begin(self, exchange: WholeExchange, behind: bytes = b"", *, later: bool = False) -> None:
        """Serve a request, or have it be the next one; what is behind it waits."""
        self._exchange, self._served = exchange, True
        if behind:
            self._hold(behind)
        elif self._eof:
            self._close = True  # it is the last one
        if self._trusted:
            clients = self.front.shared.clients
            address = clients.forwarded(self._peer, exchange.headers.getall(FORWARDED_HEADER, []))
            self.refused = not clients.move(self, address)
        if later:
            self._loop.call_soon(self._serve, exchange)
        else:
            self._serve(exchange)

    def _serve(self, exchange: WholeExchange) -> None:
        """Begin to serve a request, unless its client has left."""
        if self._exchange is not exchange:
            return
        if self.transport is None:
            self._exchange = None
            return
        try:
            if self.refused:
                refusals.too_many_connections().answer(exchange, self.front.new_id())
                self._flush(exchange)
                return
            begun = self.front.begin(exchange, self._over)
        except Exception:
            logger.exception("a call failed")
            if self._exchange is exchange:  # else it was over, and the next one is not concerned
                self._over()
        else:
            if self._exchange is exchange:  # else it is over already
                self._begun = begun

    def _flush(self, exchange: WholeExchange) -> None:
        """Go on once the client has taken an answer."""
        if self._paused:
            self._flushing = self._loop.create_task(exchange.flushed())
            self._flushing.add_done_callback(lambda _: self._over())
        else:
            self._over()

    def _over(self) -> None:
        """Act on the end of the request that is served: nothing more is written to its client."""
        exchange = self._exchange
        if exchange is not None:
            self._begun = self._flushing = None
            if not exchange.whole:
                exchange.abort()
            self._done(exchange)

    def _done(self, exchange: WholeExchange) -> None:
        """Go on to the next request, or end the connection."""
        self._exchange = None
        if self._trusted and self.address:
            self.front.shared.clients.move(self, "")
        if self._close or self._force_close or not exchange.keep_alive:
            self.force_close()
        elif self._held:
            self._since_s = self._loop.time()
            if self._reading_paused and self.transport is not None:
                self._reading_paused = False
                self.transport.resume_reading()
            self._take(self._let_go(), later=True)  # who sends many at once lets others have their turn
        else:
            self._rest()

    def _rest(self) -> None:
        """Wait for a request, for as long as connections are kept."""
        self._since_s = now_s = self._loop.time()
        self._idle_until_s = now_s + self.front.keepalive_s
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_at(self._idle_until_s, self._look_idle)

    def _look_idle(self) -> None:
        self._idle_timer = None
        if self._exchange is not None or self._held or self.transport is None:
            return
        if self._loop.time() < self._idle_until_s:
            self._idle_timer = self._loop.call_at(self._idle_until_s, self._look_idle)
        else:
            self.force_close()

    # What an exchange asks.

    def claim(self, account: str) -> bool:
        """Count this connection for an account until another one uses it; False where that has its share."""
        return self.front.shared.clients.claim(self, account)

    async def made(self, size_bytes: int, account: str) -> None:
        """Return at once: nothing is decoded here."""

    def pause_writing(self) -> None:
        """Note that the client does not take what is written."""
        self._paused = True
        self._paused_since_s = self._loop.time()
        self._unread_bytes = 0 if self._wire is None else self._wire.get_write_buffer_size()

    def resume_writing(self) -> None:
        """Note that the client has taken most of what was written."""
        self._paused = False
        waiter, self._writable = self._writable, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @property
    def _leaves(self) -> bool:
        return self.front.shared.clients.leaving

    @property
    def writing_paused(self) -> bool:
        """Return whether the client has to take what is written before there is more."""
        return self._paused

    async def _drain_helper(self) -> None:
        """Wait until the client has taken what was written. Raises `ClientConnectionResetError` where it has left."""
        if self.transport is None:
            raise ClientConnectionResetError("Connection lost")
        if self._paused:
            if self._writable is None:
                self._writable = self._loop.create_future()
            await self._writable

    # How it ends.

    @property
    def waits_since_s(self) -> float | None:
        """Return since when this connection waits for its client, as `GuardedProtocol` does."""
        rate = self.front.rules.body_min_bytes_per_s
        if self._paused:
            left_bytes = 0 if self._wire is None else self._wire.get_write_buffer_size()
            return self._paused_since_s + max(0, self._unread_bytes - left_bytes) / rate
        if self._exchange is not None:
            return None
        return min(self._last_s, self._since_s + len(self._held) / rate) if self._held else self._since_s

    def end_for_others(self) -> Awaited:
        """End this connection, which waits for its client. Of an answer that is not taken nothing can be told."""
        wire, exchange = self._wire, self._exchange
        awaited: Awaited = "answer"
        if wire is None:
            return awaited
        if exchange is not None and exchange.begun and not exchange.whole:
            exchange.cut("client_stalled")
        elif self._paused or wire.get_write_buffer_size():
            wire.abort()  # closing would wait for its client, too
        else:
            awaited = "body" if self._held else "request"
            if self._held or not self._served:  # one that has served ends as it would without others, by its idle time
                wire.write(refusals.too_many_connections().raw(self.front.new_id()))
        self.force_close()
        return awaited

    def force_close(self) -> None:
        """Close; where the client takes nothing of what is still to be sent, break off."""
        self._force_close = True
        wire, transport = self._wire, self.transport
        self.transport = None
        self._let_go()
        if transport is not None:
            transport.close()
        if wire is not None and wire.get_write_buffer_size():
            self._loop.call_later(self.front.rules.client_write_timeout_s, wire.abort)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def close(self) -> None:
        """End the connection with the request that is being served, or is on its way."""
        self._close = True
        if self._exchange is None and not self._held:
            self.force_close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Let the request end within `timeout` seconds, then have it go on without its client, and close."""
        self.close()
        if self.transport is not None:
            self._ended = self._loop.create_future()
            await asyncio.wait((self._ended,), timeout=timeout)
        if self._begun is not None:
            self._begun.left()
        if self._exchange is not None:
            self._ended = self._loop.create_future()
            await asyncio.wait((self._ended,), timeout=timeout)
        if self.transport is not None:
            self.force_close()


def split(data: bytes) -> tuple[bytes, int, bytes]:
    """Return a request's head without the line of its length, that length, and what stands behind the head. The length
    is -1 where there is no such head, or its length is not spelt as it mostly is, and for the own API."""
    if data.startswith(OWN_API):
        return b"", -1, b""
    top, end, body = data.partition(HEAD_END)
    if end and len(top) <= HEAD_BYTES:
        for spelt in LENGTHS:
            before, found, rest = top.rpartition(spelt)
            if found:
                digits, more, after = rest.partition(b"\r\n")
                if digits.isdigit() and len(digits) <= MOST_DIGITS and not digits.startswith(b"0"):
                    return before + more + after, int(digits), body
                break
    return b"", -1, b""


class _Counter:
    """Counts the requests of a parser."""

    begun = ended = 0

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_message_complete(self) -> None:
        self.ended += 1


def are_whole(data: bytes) -> bool:
    """Return whether these are whole requests alone."""
    counter = _Counter()
    try:
        httptools.HttpRequestParser(counter).feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return False
    return counter.begun == counter.ended
