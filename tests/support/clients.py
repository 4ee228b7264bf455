"""Clients that leave, pause or read slowly, on connections of their own."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.gateway.conftest import Customer, Gateway
from tests.support.answering import BOUND_S, SSE, until
from tests.support.gateways import head, the_event


async def nothing() -> None:
    """Waits for nothing."""


async def leave(
    customer: Customer,
    body: dict[str, Any] | bytes,
    after: Callable[[], Awaitable[Any]] = nothing,
    *,
    first: bytes = b"",
) -> None:
    """Send a request on a connection of its own, wait for `first` and `after`, and break the connection."""
    async with asking_by_hand(customer, body, limit_bytes=1 << 24) as (reader, writer):
        async with asyncio.timeout(BOUND_S):
            if first:
                await reader.readuntil(first)
            await after()
        writer.transport.abort()


@asynccontextmanager
async def asking_by_hand(
    customer: Customer, body: dict[str, Any] | bytes, *, limit_bytes: int = 1 << 16
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection over which a request was sent; it reads ahead no more than a few times `limit_bytes`."""
    host, _, port = customer.gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=limit_bytes)
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    writer.write(head(customer, f"Content-Length: {len(sent)}") + sent)
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


class Slow:
    """A provider that streams its first piece, and the others once it is let; it notes that it was cut off."""

    def __init__(self, first: bytes, *others: bytes) -> None:
        self.let = asyncio.Event()
        self.gone = False
        self.ended = False
        self._first, self._others = first, others

    async def serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        await response.write(self._first)
        await until(lambda: self.let.is_set() or request.transport is None)
        try:
            for piece in self._others:
                await response.write(piece)
            await response.write_eof()
            self.ended = True
        except ConnectionError:
            self.gone = True
        return response


async def noticed(gateway: Gateway) -> None:
    """Wait until every running request has been cancelled, or is being settled."""
    live = gateway.runtime.engine.holds.live
    await until(lambda: all(hold.state not in ("held", "owed") for hold in live.values()))


async def the_event_in_the_end(customer: Customer, nano: int | None = None, of_usd: str = "5.00") -> dict[str, Any]:
    """The one usage event, once it is there and nothing runs any more."""

    async def is_over() -> bool:
        return not customer.gateway.runtime.engine.holds.live and bool(await customer.events())

    await until(is_over)
    return await the_event(customer, nano, of_usd)
