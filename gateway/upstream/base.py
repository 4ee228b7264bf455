"""The transport port: how a request reaches a provider and how its answer comes back. This file owns the port,
and the slots for a provider's connections.

Exceptions:

    UpstreamError
    +-- UpstreamBusy          all connections to the provider are in use
    |   +-- AccountBusy       the account has its share of them
    +-- UpstreamUnreachable   no connection, or it broke before an answer began
    +-- UpstreamTimeout       silent for longer than `upstream_timeout_s`
    +-- UpstreamCut           the answer broke off before its end
    +-- UpstreamTooLarge      a buffered answer above its bound

No account has more than its share of the slots, so that one whose clients do not read can't take all connections; a
request without an account (an empty one) counts to no share. Every wait is bounded, in number and in time. A request of
an account that has its share waits in the account's own queue, until another of its requests ends; one that only lacks
a free connection waits in the common queue, where it counts to its account's share already.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, Protocol

import msgspec

from billing.errors import MetergateError

# Headers as the parsers give them.
RawHeaders = Iterable[tuple[bytes, bytes]]


class UpstreamError(MetergateError):
    """The provider gave no usable answer. The message never holds a secret."""


class UpstreamBusy(UpstreamError):
    """All of this process's connections to the provider are in use, for as long as one is waited for. Nothing was
    sent."""


class AccountBusy(UpstreamBusy):
    """The account's requests have its share of the connections, likewise."""


class UpstreamUnreachable(UpstreamError):
    """No connection to the provider, or it broke before an answer began."""


class UpstreamTimeout(UpstreamError):
    """The provider was silent for longer than `upstream_timeout_s`."""


class UpstreamCut(UpstreamError):
    """The answer broke off before its end."""


class UpstreamTooLarge(UpstreamError):
    """An answer that is read whole went above its bound."""


class UpstreamRequest(msgspec.Struct):
    """One request to a provider. `url` is absolute; `headers` are lines that end with CRLF, complete but for Host and
    framing. `pending` is set where sending was cancelled, or failed, after all of it had left this process: the answer
    may still come, and the caller must `release` it."""

    url: str
    headers: bytes
    body: bytes
    method: str = "POST"
    account: str = ""
    """Whose it is: no account gets more than its share of a provider's connections."""
    pending: "Pending | None" = None

    def __repr__(self) -> str:
        return f"UpstreamRequest({self.method})"  # its headers and its address may hold keys


# The slowest upload of a request that is waited for.
UPLOAD_BYTES_PER_S: Final = 65_536
Sink = Callable[[bytes], bool]
Drained = Callable[[], Awaitable[None]]


class UpstreamResponse(Protocol):
    """An answer whose head has arrived. `release` must be called exactly once, also after an error; it never blocks."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> RawHeaders:
        """Return the head as it came."""

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body as sent, undecoded. Raises `UpstreamError`. One that was cancelled can be taken up
        again."""

    def taken(self) -> bytes:
        """Return what `read` has of the body so far."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, undecoded, with back-pressure. Raises `UpstreamError` while iterated."""

    async def pump(self, sink: Sink, drained: Drained) -> None:
        """Give every piece of the body to `sink`; return at its end. Where `sink` answers False, wait for `drained`
        before the next one. Raises `UpstreamError`, and what `sink` raises."""

    def release(self) -> None:
        """Give the connection back when the body was read to its end; else close it, which stops the provider."""


class Pending(Protocol):
    """An answer whose head may still come. `release` must be called once, unless `head` has answered or raised an
    `UpstreamError`."""

    async def head(self) -> UpstreamResponse:
        """Return the answer, when its head is here. Raises `UpstreamError`."""

    def release(self) -> None:
        """Close the connection, which stops the provider."""


class Transport(Protocol):
    """Sends requests to providers of one kind."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Return the answer's head. Raises `UpstreamError`. Where it is cancelled, or fails otherwise, after all of the
        request has left, it leaves `request.pending`."""

    async def close(self) -> None: ...


class IteratedResponse:
    """What an `UpstreamResponse` whose body comes from an iterator can do by that alone. Its messages begin with `of`,
    who answers."""

    of = "the provider"

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, undecoded. Raises `UpstreamError`."""
        raise NotImplementedError

    def __init__(self) -> None:
        self._taken = bytearray()

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body. Raises `UpstreamTooLarge` above the limit, and what `chunks` raises. One that was
        cancelled can be taken up by another."""
        async for chunk in self.chunks():
            self._taken += chunk
            if len(self._taken) > limit_bytes:
                raise UpstreamTooLarge(f"{self.of}: the answer is above {limit_bytes} bytes")
        return bytes(self._taken)

    def taken(self) -> bytes:
        """Return what `read` has of the body so far."""
        return bytes(self._taken)

    async def pump(self, sink: Sink, drained: Drained) -> None:
        """Do as `UpstreamResponse.pump` says."""
        async for chunk in self.chunks():
            if not sink(chunk):
                await drained()


async def send_within(
    send: Callable[[UpstreamRequest], Awaitable[UpstreamResponse]], request: UpstreamRequest, timeout_s: float
) -> UpstreamResponse:
    """Send a request whose answer must begin within so many seconds. Raises `UpstreamError`."""
    try:
        async with asyncio.timeout(timeout_s):
            return await send(request)
    except TimeoutError:
        pending, request.pending = request.pending, None
        if pending is not None:
            pending.release()
        raise UpstreamTimeout(f"no answer within {timeout_s:g} s") from None


class _Waiter:
    __slots__ = ("account", "granted")

    def __init__(self, account: str, granted: asyncio.Future[None]) -> None:
        self.account = account
        self.granted = granted


class ConnectionSlots:
    """At most `slots` at once, of them `share` for one account; `waiting` may wait in each kind of queue.

    Made inside a running event loop. Raises `ValueError` unless all are above zero; `waiting` may be zero.
    """

    def __init__(self, slots: int, share: int, waiting: int) -> None:
        if slots < 1 or share < 1 or waiting < 0:
            raise ValueError("slots and share must be above zero, waiting not below")
        self._loop = asyncio.get_running_loop()
        self._free = slots
        self._share = share
        self._waiting = waiting
        self._taken: dict[str, int] = {}
        """Slots that an account has, or waits for in the common queue."""
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        self._own_queues: dict[str, OrderedDict[_Waiter, None]] = {}
        self._in_own_queues = 0

    def acquire_now(self, account: str) -> bool:
        """Take a slot if one is free, and return whether; `release` returns it."""
        if not self._free:
            return False
        if account:
            taken = self._taken.get(account, 0)
            if taken >= self._share:
                return False
            self._taken[account] = taken + 1
        self._free -= 1
        return True

    async def wait(self, account: str, host: str, timeout_s: float) -> None:
        """Wait for a slot and take it. Raises `UpstreamBusy` (`AccountBusy` where the account has its share) when
        none is free in time, or too many wait already; `host` is for the message."""
        kind = AccountBusy if account and self._taken.get(account, 0) >= self._share else UpstreamBusy
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait(account, host)
        except TimeoutError:
            raise kind(f"{host}: no free connection within {timeout_s:g} s") from None

    async def _wait(self, account: str, host: str) -> None:
        waiter = _Waiter(account, self._loop.create_future())
        if account and self._taken.get(account, 0) >= self._share:
            self._wait_for_own(waiter, host)
        else:
            if len(self._queue) >= self._waiting:
                raise UpstreamBusy(f"{host}: {len(self._queue)} requests wait for a connection already")
            if account:
                self._taken[account] = self._taken.get(account, 0) + 1
            self._queue[waiter] = None
            self._serve()
        try:
            await waiter.granted
        except BaseException:
            self._give_up(waiter)
            raise

    def release(self, account: str) -> None:
        """Return a slot; the longest waiting request takes it."""
        self._free += 1
        if self._own_queues:
            self._leave(account)
        elif account:
            left = self._taken[account] = self._taken[account] - 1
            if not left:
                del self._taken[account]
        if self._queue:
            self._serve()

    def _wait_for_own(self, waiter: _Waiter, host: str) -> None:
        own = self._own_queues.get(waiter.account)
        if self._in_own_queues >= self._waiting or (own is not None and len(own) >= self._share):
            raise AccountBusy(f"{host}: too many requests of one account wait for its others already")
        self._own_queues.setdefault(waiter.account, OrderedDict())[waiter] = None
        self._in_own_queues += 1

    def _leave(self, account: str) -> None:
        """Take a slot off an account; its longest waiting request moves from its own queue to the common one."""
        if not account:
            return
        own = self._own_queues.get(account)
        while own:
            waiter = self._next_own(account, own)
            if not waiter.granted.done():
                self._queue[waiter] = None
                return
        self._count_down(account)

    def _count_down(self, account: str) -> None:
        left = self._taken[account] - 1
        if left:
            self._taken[account] = left
        else:
            del self._taken[account]

    def _next_own(self, account: str, own: OrderedDict[_Waiter, None]) -> _Waiter:
        waiter, _ = own.popitem(last=False)
        self._in_own_queues -= 1
        if not own:
            del self._own_queues[account]
        return waiter

    def _serve(self) -> None:
        while self._free and self._queue:
            waiter, _ = self._queue.popitem(last=False)
            if waiter.granted.done():  # cancelled, and its task has not run yet
                self._leave(waiter.account)
            else:
                self._free -= 1
                waiter.granted.set_result(None)

    def _give_up(self, waiter: _Waiter) -> None:
        """End a wait that was cancelled or timed out."""
        own = self._own_queues.get(waiter.account)
        if waiter.granted.done() and not waiter.granted.cancelled():
            self.release(waiter.account)  # it was granted too late
        elif waiter in self._queue:
            del self._queue[waiter]
            self._leave(waiter.account)
            self._serve()
        elif own is not None and waiter in own:
            del own[waiter]
            self._in_own_queues -= 1
            if not own:
                del self._own_queues[waiter.account]
