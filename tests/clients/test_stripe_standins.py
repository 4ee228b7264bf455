"""Stripe's API as others have written it: what emulate and localstripe have of it is asked by our provider.

Neither has enough for a purchase: no checkout with a price of its own, no portal, no disputes. What they have they
answer in shapes that no one here wrote, and localstripe signs its events.
"""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from billing.payments.port import NewCustomer, ObjectRef, Payment
from billing.payments.stripe.objects import DEPLOYMENT, ORDER
from billing.payments.stripe.provider import StripeAccess, StripePayments
from tests.clients.node_programs import MODULES, WAIT_S, needs, running
from tests.support.ports import free_port

pytestmark = pytest.mark.slow

# The environment of its own that `make test` makes.
OWN = Path(sys.prefix) / "localstripe" / "bin"
LOCALSTRIPE = shutil.which("localstripe", path=OWN) or shutil.which("localstripe")
SECRET = "whsec_of_the_stand_in"
CARD = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2034, "cvc": "123"}


@asynccontextmanager
async def provider_at(url: str) -> AsyncIterator[StripePayments]:
    made = StripePayments(StripeAccess("sk_test_12345", url), [SECRET], "smoke", lambda: datetime.now(UTC))
    try:
        yield made
    finally:
        await made.close()


def intent_of(customer_id: str) -> dict[str, object]:
    marks = {ORDER: "ord_1", DEPLOYMENT: "smoke"}
    return {"amount": 2000, "currency": "usd", "customer": customer_id, "metadata": marks}


@needs("emulate")
async def test_what_emulate_has():
    port = free_port()
    program = str(MODULES / "emulate" / "dist" / "index.js")
    options = ("start", "--service", "stripe", "--port", str(port))
    async with running(program, *options, ready="Ready"), provider_at(f"http://127.0.0.1:{port}") as provider:
        customer_id = await provider.ensure_customer(NewCustomer("acc_1", "Acme"), "customer:1")
        create = provider.calls.api.payment_intents.create_async
        made = await provider.calls.write(create, params=intent_of(customer_id), key="intent:1")
        found = await provider.fetch(ObjectRef("payment", made["id"]))
        assert isinstance(found, Payment)
        assert (found.order_id, found.customer_id, found.amount_cents) == ("ord_1", customer_id, 2000)
        since = datetime.now(UTC) - timedelta(hours=1)
        assert [ref.id async for ref in provider.list_since("payment", since)] == [made["id"]]


@asynccontextmanager
async def localstripe(folder: Path) -> AsyncIterator[str]:
    """Runs it, and waits until it answers."""
    port = free_port()
    assert LOCALSTRIPE is not None
    process = await asyncio.create_subprocess_exec(LOCALSTRIPE, "--port", str(port), "--from-scratch", cwd=folder)
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


@pytest.mark.skipif(
    LOCALSTRIPE is None,
    reason="localstripe is not installed: `make .venv/localstripe/.made` does it, where a registry can be reached",
)
async def test_what_localstripe_has(tmp_path):
    delivered = asyncio.Queue()

    async def hook(request):
        await delivered.put((await request.read(), {name.lower(): value for name, value in request.headers.items()}))
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", hook)
    async with localstripe(tmp_path) as url, TestServer(app) as ours, provider_at(url) as provider:
        endpoint = {"url": str(ours.make_url("/hook")), "secret": SECRET}
        async with aiohttp.ClientSession() as session, session.post(f"{url}/_config/webhooks/ours", data=endpoint):
            pass
        customer_id = await provider.ensure_customer(NewCustomer("acc_1", "Acme"), "customer:1")
        api, write = provider.calls.api, provider.calls.write
        method = await write(api.payment_methods.create_async, params={"type": "card", "card": CARD}, key="method:1")
        await write(api.payment_methods.attach_async, method["id"], params={"customer": customer_id}, key="attach:1")
        paying = {**intent_of(customer_id), "payment_method": method["id"], "confirm": True, "off_session": True}
        made = await write(api.payment_intents.create_async, params=paying, key="intent:1")
        assert made["status"] == "succeeded"
        refund = await provider.refund(made["id"], 500, "refund:1")
        assert (refund.payment_id, refund.status, refund.amount_cents) == (made["id"], "succeeded", 500)
        assert await provider.fetch(ObjectRef("refund", "re_none")) is None
        async with asyncio.timeout(WAIT_S):
            events = [await provider.read_event(*await delivered.get()) for _ in range(2)]
        assert {event.ref for event in events} == {
            ObjectRef("customer", customer_id),
            ObjectRef("payment", made["id"]),
        }
