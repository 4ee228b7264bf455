"""The client against the real API on a socket, and against things that are not the API."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from aiohttp import web

from billing.api.application import setup
from billing.api.services import Services
from billing.client.calls import ANSWER_LIMIT_BYTES
from billing.client.errors import BadAnswer, ClientError, Refused, Unreachable
from billing.ledger.catalogue import sync_prices
from billing.money import NANO_PER_USD
from billing.usage import Usage
from metergate import Client
from tests.billing.api.conftest import registry, services
from tests.billing.api.support import ADMIN_KEY
from tests.billing.support import PRICES

__all__ = ["registry", "services"]  # fixtures

Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]


@pytest.fixture
async def api_socket(services: Services) -> AsyncIterator[str]:
    """The API on a unix socket."""
    app = web.Application()
    setup(app, services)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    with TemporaryDirectory(prefix="mg-") as folder:
        path = str(Path(folder) / "api.sock")
        await web.UnixSite(runner, path).start()
        yield path
        await runner.cleanup()


@pytest.fixture
async def client(api_socket: str) -> AsyncIterator[Client]:
    async with Client("http://localhost", admin_key=ADMIN_KEY, unix_socket=api_socket) as opened:
        yield opened


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves one handler on every path; answers the URL."""
    async with AsyncExitStack() as stack:

        async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}"

        yield start


async def test_grants_are_made_once_for_a_key(client):
    account = await client.create_account(name="Acme")
    first = await client.grant(account.id, amount_usd="12.50", idempotency_key="one", note="welcome")
    assert await client.grant(account.id, amount_usd="12.50", idempotency_key="one", note="welcome") == first
    assert (await client.account(account.id)).balance_usd == "12.50"
    with pytest.raises(Refused) as refused:
        await client.grant(account.id, amount_usd="13", idempotency_key="one")
    assert (refused.value.status, refused.value.code) == (409, "idempotency_conflict")
    assert refused.value.error["param"] == "idempotency_key"
    assert str(refused.value) == refused.value.message


async def test_a_customers_reads(client, billing, api_socket):
    await sync_prices(billing.database, PRICES)
    account = await client.create_account(name="Acme")
    key = await client.create_key(account_id=account.id, name="laptop")
    await billing.grants.grant(account.id, NANO_PER_USD, "first")
    request_id = await billing.debit(account.id, key.id, Usage(input_tokens=1000, output_tokens=10))
    async with Client("http://localhost", api_key=key.key, unix_socket=api_socket) as customer:
        assert (await customer.balance()).balance_usd == "0.999844"
        kinds = [each.kind for each in (await customer.transactions()).data]
        assert sorted(kinds) == ["grant", "usage"]
        assert [each.id for each in (await customer.usage_events(model="fast")).data] == [request_id]
        assert (await customer.usage_events(until="2001-01-01")).data == []
        event = await customer.usage_event(request_id)
        assert [line.price_class for line in event.lines] == ["input", "output"]
        assert (await customer.usage(key_id=key.id)).total_tokens == 1010
        with pytest.raises(Refused) as refused:
            await customer.accounts()
        assert refused.value.status == 401


async def test_an_id_stays_one_segment_of_the_path(client):
    for account_id in ("../keys", "a/b", "a?b=c", "a#b", "ä", ""):
        with pytest.raises(Refused) as refused:
            await client.account(account_id)
        assert refused.value.status == 404


async def test_newer_fields_are_kept(serve):
    async def handler(request):
        return web.json_response({"events": 1, "input_tokens": 1, "output_tokens": 1, "total_tokens": 2,
                                  "charge_usd": "1.00", "cost_usd": "1.00", "brand_new": [1]})  # fmt: skip

    async with Client(await serve(handler) + "/") as client:
        assert (await client.usage()).received["brand_new"] == [1]


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "<html>welcome</html>", "content_type": "text/html"},
        {"text": "{}"},
        {"text": '{"events": "many"}'},
        {"body": b"\xff\xfe"},
        {"text": "[]"},
        {"status": 502, "text": "<html>bad gateway</html>"},
        {"status": 404, "text": '{"error": "no"}'},
        {"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}},
        {"body": b"x" * (ANSWER_LIMIT_BYTES + 1)},
    ],
)
async def test_what_is_not_the_api(serve, answer):
    seen = []

    async def handler(request):
        seen.append(request.path)
        return web.Response(**answer)

    url = await serve(handler)
    async with Client(url, admin_key="secret-of-mine") as client:
        with pytest.raises(BadAnswer) as bad:
            await client.usage()
    assert url in str(bad.value)
    assert "secret-of-mine" not in str(bad.value)
    assert seen == ["/api/billing/usage"]  # no redirect is followed


async def test_a_refusal_keeps_every_field(serve):
    error = {"message": "No.", "type": "x", "param": None, "code": "quota_exceeded", "quota": {"window": "day"}}

    async def handler(request):
        return web.json_response({"error": error}, status=429)

    async with Client(await serve(handler)) as client:
        with pytest.raises(Refused) as refused:
            await client.usage()
    assert refused.value.error == error


async def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with Client(url) as client:
            with pytest.raises(Unreachable, match="connection refused") as away:
                await client.balance()
    assert away.value.url == url
    async with Client("http://localhost", unix_socket="/nowhere/at.all") as client:
        with pytest.raises(Unreachable):
            await client.balance()


async def test_no_answer_in_time(serve):
    async def handler(request):
        await asyncio.Event().wait()
        raise AssertionError

    async with Client(await serve(handler), timeout_s=0.1) as client:
        with pytest.raises(Unreachable, match=r"no answer within 0\.1 s"):
            await client.balance()


async def test_a_connection_that_breaks_in_the_answer(serve):
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"{")
        request.transport.close()
        return response

    async with Client(await serve(handler)) as client:
        with pytest.raises(ClientError):
            await client.balance()


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "ftp://x", "http://", "http://u:p@x", "http://x?a=b", "http://x#a", "http://[::1"]
)
def test_urls_that_are_refused(url):
    with pytest.raises(ValueError):  # noqa: PT011 - any of them will do
        Client(url, admin_key="secret-of-mine")


async def test_it_shows_no_secret_and_needs_its_context():
    client = Client("http://localhost", admin_key="secret-of-mine", api_key="mg_mine")
    assert repr(client) == "Client('http://localhost')"
    with pytest.raises(RuntimeError):
        await client.balance()
