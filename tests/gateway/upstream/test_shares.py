"""Clients that do not read: what they keep of a provider's connections, and what everybody else gets meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from aiohttp import web
from yarl import URL

from gateway.config.settings import load_settings
from gateway.config.source import SHIPPED_FOLDER
from tests.gateway.conftest import Customer, chat
from tests.support.answering import SSE, answer, delta
from tests.support.gateways import ask, refusal

pytestmark = pytest.mark.slow

BOUND_S = 60.0
UNREAD = "unread"


async def endless(request: web.Request) -> web.StreamResponse:
    """To who asks for it a stream that has no end; to everybody else a short answer."""
    body = await request.json()
    if body["messages"][0]["content"] != UNREAD:
        return web.json_response(answer())
    response = web.StreamResponse(headers=SSE)
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(delta("word " * 10_000))
    return response


@asynccontextmanager
async def not_reading(customer: Customer) -> AsyncIterator[asyncio.StreamReader]:
    """A request for a stream whose client reads its first byte and nothing more."""
    url = URL(customer.gateway.url)
    body = json.dumps(chat(UNREAD, model="gpt-4o-mini", stream=True, max_tokens=100)).encode()
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {url.host}",
        f"Authorization: Bearer {customer.key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    writer.write("\r\n".join((*lines, "", "")).encode() + body)
    try:
        assert await reader.readexactly(1) == b"H"
        yield reader
    finally:
        writer.transport.abort()


async def test_clients_that_do_not_read_leave_the_others_their_connections(make_gateway, upstream):
    gateway = await make_gateway(await upstream(endless), upstream_connections=4, connect_timeout_s=1)
    hostile, honest = await gateway.customer(), await gateway.customer()
    async with AsyncExitStack() as stack, asyncio.timeout(BOUND_S):
        for _ in range(2):  # half of the connections is what an account may have
            await stack.enter_async_context(not_reading(hostile))
        for _ in range(3):
            assert (await ask(honest, chat(model="gpt-4o-mini"))).status == 200
        held = (await hostile.balance())["held_usd"]
        fetched = await ask(hostile, chat(model="gpt-4o-mini"))
        refusal(fetched, 429, "concurrency_exceeded")
        assert fetched.headers["Retry-After"] == "1"
        assert (await hostile.balance())["held_usd"] == held  # what it held for that was given back
        assert (await ask(honest, chat(model="gpt-4o-mini"))).status == 200


async def test_when_every_connection_is_in_use_others_are_told_to_come_back(make_gateway, upstream):
    gateway = await make_gateway(await upstream(endless), upstream_connections=2, connect_timeout_s=1)
    async with AsyncExitStack() as stack, asyncio.timeout(BOUND_S):
        for customer in [await gateway.customer() for _ in range(2)]:
            await stack.enter_async_context(not_reading(customer))
        customer = await gateway.customer()
        fetched = await ask(customer, chat(model="gpt-4o-mini"))
        assert refusal(fetched, 503, "temporarily_unavailable")["type"] == "server_error"
        assert int(fetched.headers["Retry-After"]) > 0
        balance = await customer.balance()
        assert (balance["balance_usd"], balance["held_usd"]) == ("5.00", "0.00")


def test_every_shipped_plan_bounds_what_runs_at_once():
    plans = load_settings({"METERGATE_CONFIG": str(SHIPPED_FOLDER)}).plans
    bounds = [plans[name].max_parallel_requests for name in ("free", "starter", "professional", "enterprise")]
    assert bounds == [20, 50, 200, 1000]
