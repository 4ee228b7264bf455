"""The transport port: how a request reaches a provider and how its answer comes back. This file owns the port alone.

Exceptions:

    UpstreamError
    +-- UpstreamBusy          all connections to the provider are in use
    |   +-- AccountBusy       the account has its share of them
    +-- UpstreamUnreachable   no connection, or it broke before an answer began
    +-- UpstreamTimeout       silent for longer than `upstream_timeout_s`
    +-- UpstreamCut           the answer broke off before its end
    +-- UpstreamTooLarge      a buffered answer above its bound
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from billing.errors import MetergateError

if TYPE_CHECKING:
    from gateway.upstream.headers import RawHeaders


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


UPLOAD_BYTES_PER_S: Final = 65_536
"""The slowest upload of a request that is waited for."""
Sink = Callable[[bytes], bool]
Drained = Callable[[], Awaitable[None]]


class UpstreamResponse(Protocol):
    """An answer whose head has arrived. `release` must be called once, whatever happened; it never blocks."""

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


async def pump_chunks(chunks: AsyncIterator[bytes], sink: Sink, drained: Drained) -> None:
    """Do as `UpstreamResponse.pump`, for answers that come as an iterator."""
    async for chunk in chunks:
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
