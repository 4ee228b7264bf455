"""The transport to real providers, behind the port of `gateway.upstream.base`: kept-alive connections, directly or
by the proxy that the environment names.

Proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY, looked up once per origin. A provider with TLS is reached by
a tunnel (CONNECT), another one by asking the proxy for its whole URL. `.netrc` is not read. Redirects are not followed:
they would carry the provider's key to another host. Messages name the host and the kind of failure, never a path, a
query or a header.

Providers close idle connections: one that has idled for a while is checked before it is used, so that nothing is
written to one that is closed already. What remains is a request that crosses the close on the wire. That can't be told
from a provider that took the request and died, and a POST must not be repeated unless it is known not to have been
applied, or to be applied once (RFC 9110, 9.2.2; Go's client draws the same line): so only a request that carries an
Idempotency-Key, or whose method is safe, is sent once more, over a new connection. Every other failure is an
`UpstreamError`, and routing decides.

A connection decides which bytes are an answer's head and body, and whether it is whole; `Response` reads it. A body
with neither length nor chunks ends with its connection; a reset is no such end, an early close can't be told from one.
Reading stops above BUFFER_BYTES until the reader has caught up, and that time is no silence of the provider's. After an
answer the connection can serve another if the provider allows it and nothing is left over. A body is taken in one of
three ways: whole, in chunks, or pumped. The reader gets every byte in order, what came before a failure before the
failure, and no more is in memory than it has room for.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Literal, cast
from urllib.request import getproxies, proxy_bypass

import httptools
from yarl import URL

from gateway.upstream.base import (
    UPLOAD_BYTES_PER_S,
    ConnectionSlots,
    Drained,
    Sink,
    UpstreamCut,
    UpstreamError,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)

Passing = Literal["on", "stalled", "over"]


class Response:
    """An answer whose head has arrived; an `UpstreamResponse`. The connection gives it pieces, says when it `ended` or
    met a `failure`; `on_release` gets the connection and whether it is free.

    Who waits for it awaits `read`, `chunks` or `pump`. Who does not sets `on_change`, which is called after each read
    that may have changed something, and looks: at `status`, `ended`, `failure`, `read_on` and `passing`."""

    __slots__ = (
        "_connection",
        "_parts",
        "_refused",
        "_size",
        "_stalled",
        "buffered_bytes",
        "ended",
        "failure",
        "headers",
        "on_change",
        "on_release",
        "pieces",
        "sink",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.buffered_bytes = 0
        self.ended = False
        self.failure: UpstreamError | None = None
        self.on_change: Callable[[], None] | None = None
        self.on_release: Callable[[Any, bool], None] | None = None
        self._connection: Connection | None = connection
        self._parts: list[bytes] = []
        self._size = 0
        self.sink: Sink | None = None
        self._stalled = False
        self._refused: Exception | None = None

    async def next_piece(self) -> bytes:
        """Return what has arrived, at least a byte; nothing at the body's end. Raises `UpstreamCut`,
        `UpstreamTimeout`."""
        while not self.pieces:  # what came before a failure is read before it
            if self.failure is not None:
                raise self.failure
            if self.ended:
                return b""
            if self._connection is None:
                raise UpstreamCut("the answer was released before its end")
            await self._connection.wait()
        return self._taken()

    def _taken(self) -> bytes:
        pieces, self.pieces = self.pieces, []
        self.buffered_bytes = 0
        if self._connection is not None:
            self._connection.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body, undecoded. Raises `UpstreamTooLarge` once the limit is passed, and what `next_piece`
        raises.

        A read that was cancelled can be taken up by another.
        """
        while (body := self.read_on(limit_bytes)) is None:
            if self._connection is None:
                raise UpstreamCut("the answer was released before its end")
            await self._connection.wait()
        return body

    def read_on(self, limit_bytes: int) -> bytes | None:
        """Take what is here of the body; return all of it once it has ended, None before. Raises as `read`, what came
        before a failure taken."""
        if not self.ended and not self._size and self._announced() > limit_bytes:
            raise UpstreamTooLarge(f"the answer is above {limit_bytes} bytes")
        if self.pieces:
            piece = self._taken()
            self._parts.append(piece)
            self._size += len(piece)
            if self._size > limit_bytes:
                raise UpstreamTooLarge(f"the answer is above {limit_bytes} bytes")
        if self.failure is not None:
            raise self.failure
        if not self.ended:
            return None
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def taken(self) -> bytes:
        """Return what `read` has of the body so far."""
        return b"".join(self._parts)

    async def head(self) -> Response:
        """Return this answer when its head is here: for a request that its sender has left."""
        while not self.status:
            if self.failure is not None:
                self.release()
                raise self.failure
            if self._connection is None:
                raise UpstreamCut("the answer was released before its end")
            await self._connection.wait()
        return self

    def _announced(self) -> int:
        return next((int(value) for name, value in self.headers if name.lower() == b"content-length"), 0)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, undecoded. Raises what `next_piece` raises."""
        while piece := await self.next_piece():
            yield piece

    async def pump(self, sink: Sink, drained: Drained) -> None:
        """Give the body to `sink` as it arrives, in the event loop's own turn: a task that is woken for a piece costs
        more than all that is done with it. As `UpstreamResponse.pump` else."""
        self.pass_to(sink)
        try:
            while (passing := self.passing()) != "over":
                if passing == "stalled":
                    await drained()
                    self.go_on()
                elif self._connection is not None:
                    await self._connection.wait()
        finally:
            self.stop_passing()
        if (failure := self.broken) is not None:
            raise failure

    @property
    def goes_on(self) -> bool:
        """Return whether the sink has what is here, and waits for more: nothing but that has changed."""
        if self.sink is None or self.ended or self._stalled:
            return False
        return self._connection is not None and self.failure is None and self._refused is None

    def pass_to(self, sink: Sink) -> None:
        """Give `sink` what is here of the body, and the rest as it arrives: see `pump`."""
        self.sink = sink
        self.deliver()

    def passing(self) -> Passing:
        """Return whether the sink gets more, must be waited for before it does (then `go_on`), or has got all."""
        if self._connection is None or self._refused is not None:
            return "over"
        if self._stalled:
            return "stalled"
        return "over" if self.ended or self.failure is not None else "on"

    def go_on(self) -> None:
        """Give the sink more, now that it can take it."""
        self._stalled = False
        if self._connection is not None:
            self._connection.resume()
            self.deliver()

    def stop_passing(self) -> None:
        """Leave the rest of the body to another reader."""
        self.sink = None
        if self._stalled and self._connection is not None:
            self._stalled = False
            self._connection.resume()

    @property
    def broken(self) -> Exception | None:
        """Return what the sink has raised, or what broke the answer."""
        return self._refused if self._refused is not None else self.failure

    def leave(self) -> bool:
        """Stop looking at it before its head has come. Return whether it may still come; it is released where the
        provider has not got all of the request, and so can't have begun."""
        self.on_change = None
        connection = self._connection
        if connection is None or self.failure is not None or not connection.has_sent_all:
            self.release()
            return False
        return True

    def receive(self, piece: bytes) -> None:
        """Take a piece of the body: pass it to the sink where that can take it at once, else keep it."""
        sink, connection = self.sink, self._connection
        if sink is None or connection is None or self._stalled or self.pieces or self._refused is not None:
            self.pieces.append(piece)
            self.buffered_bytes += len(piece)
            if sink is not None:
                self.deliver()
            return
        try:
            takes_more = sink(piece)
        except Exception as error:  # raised in the pumping task
            self._refused = error
            connection.resume()  # whoever goes on reads the rest
        else:
            if takes_more:
                if connection.paused:
                    connection.resume()  # a burst was above what is kept
                return
            self._stalled = True
            connection.pause()
        if self.on_change is None:
            connection.wake()  # else who has asked for what is here looks by himself

    def deliver(self) -> None:
        """Pass what has arrived to the sink; wake `pump` where that can't take more."""
        if self.sink is None or self._connection is None or self._stalled or not self.pieces or self._refused:
            return
        pieces, self.pieces = self.pieces, []
        self.buffered_bytes = 0
        self.receive(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def release(self) -> None:
        """Free the connection where the body was read to its end; else close it, which stops the
        provider."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        free = connection.finish()
        if not self.ended and self.failure is None:
            self.failure = UpstreamCut("the answer was released before its end")
            connection.wake()
        if self.on_release is not None:
            self.on_release(connection, free)


BUFFER_BYTES: Final = 131_072
# A larger body is not copied to stand behind its head.
JOINED_BYTES: Final = 65_536
# Of a head, of trailers, or of what else frames a body, without a byte of the body in between.
MAX_BARE_BYTES: Final = 65_536
# Interim answers (1xx) before the final one; a provider that sends more is not answering.
MAX_INTERIM: Final = 8
FIRST_STATUS: Final = 100
FIRST_FINAL_STATUS: Final = 200
SWITCHING: Final = 101
_CHUNKED_BY: Final = b"transfer-encoding"
_FRAMING: Final = frozenset({b"content-length", _CHUNKED_BY})


class StaleConnection(UpstreamUnreachable):
    """A connection that had served before broke, and not a byte of an answer had come."""


class Connection(asyncio.Protocol):
    """Serves one request at a time: `send`, then the answer's `read` or `chunks`, then its `release`."""

    __slots__ = (
        "_answer",
        "_bare_bytes",
        "_chunks",
        "_deadline",
        "_fresh",
        "_headers",
        "_host",
        "_interim",
        "_keep",
        "_loop",
        "_parser",
        "_pieces",
        "_reading",
        "_served",
        "_timeout_s",
        "_timer",
        "_until_close",
        "_waiter",
        "on_body",
        "on_lost",
        "paused",
        "transport",
    )

    def __init__(self, host: str, timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """`host` is for messages; `timeout_s` the longest silence of the provider."""
        self.transport: asyncio.Transport | None = None
        self.on_lost: Callable[[Connection], None] | None = None
        self._host = host
        self._timeout_s = timeout_s
        self._loop = loop
        self._pieces: list[bytes] = []
        """Of the body, from the bytes that are being parsed."""
        self.on_body = self._pieces.append  # a frame of Python for each chunk would cost more than all that is done
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Response | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._headers: list[tuple[bytes, bytes]] = []
        self._bare_bytes = 0
        self._interim = 0
        self._fresh = True
        self._served = 0
        self._reading = False
        self._keep = False
        self.paused = False
        self._until_close = False

    @property
    def usable(self) -> bool:
        """Return whether another request can be sent."""
        return self.transport is not None and not self.transport.is_closing()

    def hung_up(self) -> bool:
        """Return whether the provider has closed it, or sent bytes unasked, which the event loop has not seen yet."""
        if self.transport is None:
            return True
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def send(self, head: bytes, body: bytes, upload_s: float) -> Response:
        """Send a request and return its answer's head. Raises `UpstreamUnreachable`, `UpstreamTimeout` where the
        provider is silent for so long after `upload_s`, seconds that the upload itself may take; the connection is
        closed then. Where it is cancelled, the connection stays open if all of the request has left: then it is
        `unanswered`."""
        answer = self.begin(head, body, upload_s)
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        except BaseException:
            if not self.has_sent_all:  # the provider has not got all of it, and can't have begun
                self.close()
            raise
        finally:
            self._waiter = None
        if answer.failure is not None and not answer.status:
            raise answer.failure
        return answer

    def begin(self, head: bytes, body: bytes, upload_s: float) -> Response:
        """Send a request, and return its answer, whose head is not here yet. Raises `StaleConnection`; else as `send`,
        what breaks it is the answer's `failure`."""
        transport = self.transport
        if transport is None:
            raise StaleConnection(f"{self._host}: the connection had been closed")
        answer = self._answer = Response(self)
        self._fresh, self._until_close = True, False
        self._interim = self._bare_bytes = 0
        if len(body) > JOINED_BYTES:
            transport.write(head)
            transport.write(body)
        else:
            transport.write(head + body)
        self._watch_from(upload_s)
        return answer

    @property
    def has_sent_all(self) -> bool:
        """Return whether all that was written has left this process."""
        return self.transport is not None and not self.transport.get_write_buffer_size()

    @property
    def unanswered(self) -> Response | None:
        """Return the answer to a request whose sender has been cancelled, where it may still come."""
        answer = self._answer
        return answer if answer is not None and answer.failure is None and self.transport is not None else None

    async def wait(self) -> None:
        """Wait for a head, a piece of the body, its end or a failure."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Wake the task that waits for this connection, or call who looks at its answer; not while it is parsed."""
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self._answer is not None and self._answer.on_change is not None and not self._reading:
            self._answer.on_change()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        answer, pieces = self._answer, self._pieces
        if answer is None or answer.ended:  # unasked bytes
            self.close()
            return
        self._fresh = False
        self._deadline = self._loop.time() + self._timeout_s
        self._bare_bytes += len(data)
        self._reading = True
        try:
            self._parser.feed_data(data)
            if not pieces and self._bare_bytes > MAX_BARE_BYTES:
                self.fail(self._broken("(nothing but framing)"))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(self._broken(f"({type(error).__name__})"))
        if pieces:
            self._bare_bytes = 0
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            answer.receive(piece)
            if answer.buffered_bytes > BUFFER_BYTES:
                self.pause()
            if answer.sink is None:
                self.wake()
        self._reading = False
        if answer.on_change is not None and not answer.goes_on:
            answer.on_change()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._timer is not None:
            self._timer.cancel()
        answer = self._answer
        if answer is not None and not answer.ended:
            if answer.status and self._until_close and error is None and answer.failure is None:
                answer.ended = True
                self.wake()
            else:
                self.fail(self._broken("(connection lost)"))
        if self.on_lost is not None:
            self.on_lost(self)

    def _broken(self, reason: str) -> UpstreamError:
        """Return the error for a break now: within an answer, before one, or as a connection was used again."""
        if self._answer is not None and self._answer.status:
            return UpstreamCut(f"{self._host}: the answer broke off {reason}")
        kind = StaleConnection if self._fresh and self._served else UpstreamUnreachable
        return kind(f"{self._host}: no answer {reason}")

    def fail(self, failure: UpstreamError) -> None:
        """End the answer with a failure, and close."""
        answer = self._answer
        if answer is not None and not answer.ended and answer.failure is None:
            answer.failure = failure
            self.wake()
        self.close()

    def close(self) -> None:
        """Close at once; what was not sent is dropped."""
        if self.transport is not None:
            self.transport.abort()
            self.transport = None

    def detach(self) -> None:
        """Leave the transport to the protocol that goes on with it."""
        self.transport = None
        if self._timer is not None:
            self._timer.cancel()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.ended:
            self._keep = False  # what follows a whole answer was not asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None and not self._answer.status:  # trailers are dropped
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        if answer is None or answer.status or status < FIRST_STATUS or status == SWITCHING:
            raise ValueError("an unasked answer")
        headers, self._headers = self._headers, []
        if (
            self._bare_bytes > MAX_BARE_BYTES
            and sum(len(name) + len(value) for name, value in headers) > MAX_BARE_BYTES
        ):
            raise ValueError("a head above its bound")
        if status < FIRST_FINAL_STATUS:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise ValueError("too many interim answers")
            return
        answer.status, answer.headers = status, headers
        self._keep = self._parser.should_keep_alive()
        if not self._keep:
            self._until_close = not any(name.lower() in _FRAMING for name, _ in headers)
        elif self._parser.get_http_version() == "1.0" and any(name.lower() == _CHUNKED_BY for name, _ in headers):
            self._keep = False  # HTTP/1.0 has no chunks (RFC 9112, 6.1)
        self.wake()

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is not None and answer.status:
            answer.ended = True
            self._served += 1
            self.wake()

    # Back-pressure and silence.

    def pause(self) -> None:
        """Stop reading: the reader can't keep up."""
        if not self.paused and self.transport is not None:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on: the reader has caught up."""
        if self.paused and self.transport is not None:
            self.paused = False
            self._deadline = self._loop.time() + self._timeout_s
            self.transport.resume_reading()

    def _watch_from(self, upload_s: float) -> None:
        """Count silence from now. One timer lives as long as the connection and is moved on only when it fires."""
        self._deadline = self._loop.time() + self._timeout_s + upload_s
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._check_silence)

    def _check_silence(self) -> None:
        self._timer = None
        answer, now = self._answer, self._loop.time()
        if answer is None or answer.ended or self.transport is None:
            return
        if self.paused:
            self._deadline = now + self._timeout_s
        if now < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_silence)
            return
        within = "within its answer" if answer.status else "with no answer"
        self.fail(UpstreamTimeout(f"{self._host}: silent for {self._timeout_s:g} s {within}"))

    # What an answer asks for.

    def finish(self) -> bool:
        """End the answer and return whether the connection can serve another; close it otherwise."""
        answer, self._answer = self._answer, None
        transport = self.transport
        whole = answer is not None and answer.ended and self._keep and not self.paused
        if transport is None or not whole or transport.is_closing() or transport.get_write_buffer_size():
            self.close()
            return False
        return True


KEEPALIVE_S: Final = 75.0  # how long a connection may idle in the pool
ACCOUNT_SHARE: Final = 0.5
WAITING: Final = 1_000
BODILESS: Final = ("GET", "HEAD", "OPTIONS")
IDEMPOTENCY_KEY: Final = b"idempotency-key: "
# A connection that has idled for longer is checked before it is used.
CHECKED_AFTER_S: Final = 0.5
TARGETS_MAX: Final = 1_024  # addresses whose parts are cached
TUNNEL_OPEN: Final = 200


class Origin:
    """Where connections go, by which proxy, and the idle ones."""

    __slots__ = ("host", "idle", "port", "proxy", "tls")

    def __init__(self, url: URL) -> None:
        self.host = url.host or "no host"
        self.port = url.port or 443
        self.tls = url.scheme == "https"
        self.proxy = _environment_proxy(url)
        self.idle: list[tuple[Connection, float]] = []

    def forget(self, connection: Connection) -> None:
        """Forget a connection that was lost."""
        self.idle = [(idle, since) for idle, since in self.idle if idle is not connection]


class Target:
    """One address with one method: its origin, and what every request's head begins with."""

    __slots__ = ("begins", "origin")

    def __init__(self, method: str, url: URL, origin: Origin) -> None:
        self.origin = origin
        place, host, proxy = url.raw_path_qs, url.host_port_subcomponent, origin.proxy
        authorization = ""
        if proxy is not None and not origin.tls:
            place, authorization = f"http://{host}{place}", _authorization(proxy)
        self.begins = f"{method} {place} HTTP/1.1\r\nHost: {host}\r\n{authorization}".encode()


class HttpTransport:
    """The connections of one process to one provider. Made inside a running event loop; `close` it at the end."""

    def __init__(
        self,
        *,
        connections: int,
        connect_timeout_s: float,
        timeout_s: float,
        account_share: float = ACCOUNT_SHARE,
        waiting: int = WAITING,
    ) -> None:
        """At most `connections` at once, of them `account_share` (of 1) for one account, at least one; `waiting`
        requests wait for one, as long as for connecting.

        `timeout_s` is the longest silence of a provider. Raises `ValueError` unless they are above zero.
        """
        if connections < 1 or connect_timeout_s <= 0 or timeout_s <= 0:
            raise ValueError("connections, connect_timeout_s and timeout_s must be above zero")
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._slots = ConnectionSlots(connections, max(1, int(connections * account_share)), waiting)
        self._origins: dict[tuple[str, str | None, int | None], Origin] = {}
        self._targets: dict[tuple[str, str], Target] = {}
        self._used: dict[Connection, tuple[Origin, str]] = {}
        """Where it goes, and the account whose request it carries."""
        self._tls: ssl.SSLContext | None = None
        self._closed = False
        self._on_release: Callable[[Connection, bool], None] = self._give_back

    async def send(self, request: UpstreamRequest) -> Response:
        """Return the answer's head. Raises `UpstreamBusy`, `UpstreamUnreachable` and `UpstreamTimeout`. See
        `Transport.send`."""
        return await self._send(request, anew=False)

    async def _send(self, request: UpstreamRequest, *, anew: bool) -> Response:
        target = self._targets.get((request.method, request.url)) or self._target(request)
        origin, body, account = target.origin, request.body, request.account
        head, upload_s = _head(target, request), len(body) / UPLOAD_BYTES_PER_S
        if not self._slots.acquire_now(account):
            await self._slots.wait(account, origin.host, self._connect_timeout_s)
        connection: Connection | None = None
        try:
            connection = (None if anew else self._idle(origin)) or await self._connect(origin)
            self._used[connection] = origin, account
            try:
                answer = await connection.send(head, body, upload_s)
            except StaleConnection:
                if not may_repeat(request):
                    raise
                del self._used[connection]
                connection = await self._connect(origin)
                self._used[connection] = origin, account
                answer = await connection.send(head, body, upload_s)
        except BaseException:
            pending = connection.unanswered if connection is not None else None
            if pending is not None:
                pending.on_release, request.pending = self._on_release, pending
                raise
            if connection is not None:
                self._used.pop(connection, None)
            self._slots.release(account)
            raise
        answer.on_release = self._on_release
        return answer

    def send_now(self, request: UpstreamRequest, on_change: Callable[[], None]) -> Response | None:
        """Send where an idle connection can take the request at once; None where `send` must wait for one. The answer,
        whose head is not here yet, calls `on_change`; what breaks it before is its `failure`."""
        target = self._targets.get((request.method, request.url)) or self._target(request)
        origin, body, account = target.origin, request.body, request.account
        if not self._slots.acquire_now(account):
            return None
        connection = self._idle(origin)
        if connection is None:
            self._slots.release(account)
            return None
        self._used[connection] = origin, account
        answer = connection.begin(_head(target, request), body, len(body) / UPLOAD_BYTES_PER_S)
        answer.on_change, answer.on_release = on_change, self._on_release
        return answer

    async def repeat(self, request: UpstreamRequest) -> Response:
        """Send a request that `may_repeat` once more, over a new connection, because `send_now` has used one that broke
        before the answer. Raises as `send`."""
        return await self._send(request, anew=True)

    def _target(self, request: UpstreamRequest) -> Target:
        if len(self._targets) >= TARGETS_MAX:
            self._targets.clear()
        url = URL(request.url)
        name = (url.scheme, url.host, url.port)
        origin = self._origins.get(name)
        if origin is None:
            origin = self._origins[name] = Origin(url)
        target = self._targets[request.method, request.url] = Target(request.method, url, origin)
        return target

    def _idle(self, origin: Origin) -> Connection | None:
        """Return the connection that idled least, if it can still be used."""
        while origin.idle:
            connection, since = origin.idle.pop()
            idled_s = self._loop.time() - since
            fresh = connection.usable and idled_s < KEEPALIVE_S
            if fresh and (idled_s < CHECKED_AFTER_S or not connection.hung_up()):
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await self._open(origin)
        except TimeoutError:
            raise UpstreamUnreachable(f"{origin.host}: no connection within {self._connect_timeout_s:g} s") from None
        except OSError as error:
            raise UpstreamUnreachable(
                f"{origin.host}: no connection ({error.strerror or type(error).__name__})"
            ) from None
        connection.on_lost = origin.forget
        return connection

    async def _open(self, origin: Origin) -> Connection:
        def make() -> Connection:
            return Connection(origin.host, self._timeout_s, self._loop)

        proxy = origin.proxy
        if proxy is None:
            place = origin.host, origin.port, origin.tls
        else:
            place = proxy.host or "", proxy.port or 80, proxy.scheme == "https"
        host, port, tls = place
        _, connection = await self._loop.create_connection(make, host, port, ssl=self._context() if tls else None)
        if proxy is None or not origin.tls:
            return connection
        name = f"{origin.host}:{origin.port}"
        request = f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{_authorization(proxy)}\r\n"
        try:
            answer = await connection.send(request.encode(), b"", 0.0)
            carrier, within = connection.transport, make()
            if answer.status != TUNNEL_OPEN or carrier is None:
                raise UpstreamUnreachable(f"{origin.host}: no connection (its proxy answers {answer.status})")
            transport = await self._loop.start_tls(carrier, within, self._context(), server_hostname=origin.host)
            if transport is None:
                raise ConnectionResetError("the tunnel was closed")
        except BaseException:
            connection.close()
            raise
        connection.detach()
        within.connection_made(transport)
        return within

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _give_back(self, connection: Connection, free: bool) -> None:
        origin, account = self._used.pop(connection)
        self._slots.release(account)
        if free and not self._closed:
            origin.idle.append((connection, self._loop.time()))
        else:
            connection.close()

    async def close(self) -> None:
        """Close every connection; answers that are being read are cut."""
        self._closed = True
        for connection, (origin, _) in list(self._used.items()):  # who looks at one gives it back at once
            connection.fail(UpstreamCut(f"{origin.host}: the gateway is closing"))
        for origin in self._origins.values():
            for connection, _ in origin.idle:
                connection.close()
            origin.idle = []


def _head(target: Target, request: UpstreamRequest) -> bytes:
    """Return a request's whole head."""
    body = request.body
    framing = b"Content-Length: %d\r\n\r\n" % len(body) if body or request.method not in BODILESS else b"\r\n"
    return target.begins + request.headers + framing


def may_repeat(request: UpstreamRequest) -> bool:
    """Return whether a request may be sent once more where it is not known whether it was applied."""
    return request.method in BODILESS or IDEMPOTENCY_KEY in request.headers.lower()


def _environment_proxy(url: URL) -> URL | None:
    """Return the proxy that the environment names for a URL, with the credentials that stand in its address."""
    named = getproxies().get(url.scheme)
    if not named or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    return URL(named if "://" in named else f"http://{named}")


def _authorization(proxy: URL) -> str:
    """Return the header line with a proxy's credentials, nothing where it has none."""
    if proxy.user is None:
        return ""
    credentials = b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return f"Proxy-Authorization: Basic {credentials}\r\n"
