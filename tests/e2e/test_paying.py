"""From `billing_required` to the next answer: a key without credit, its page, a payment, and a model again."""

import re
from typing import Any

import pytest

from tests.gateway.conftest import Customer, Gateway, chat
from tests.support.answering import until
from tests.support.gateways import fetch, refusal

pytestmark = pytest.mark.slow

SCOPES = ["llm:proxy", "billing:read", "billing:setup"]
FORMS = re.compile(r'<button[^>]* name="action" value="([^"]+)"')


async def page_of(customer: Customer, path: str, **body: Any) -> str:
    """The path of a page that a call of billing opens."""
    async with customer.post(f"/api/v1/billing/{path}", body=body) as answer:
        assert answer.status == 200, await answer.text()
        url = (await answer.json())["url"]
    assert url.startswith("http://127.0.0.1:8080/pay/")
    return str(url.removeprefix("http://127.0.0.1:8080"))


async def visit(gateway: Gateway, path: str, action: str | None = None) -> str:
    """What a browser shows of a page, after one of its buttons was pressed."""
    url = gateway.url + path
    data = None if action is None else {"action": action}
    async with gateway.session.request("GET" if action is None else "POST", url, data=data) as answer:
        assert answer.status == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script" not in policy
        text = await answer.text()
    assert "<script" not in text
    return text


async def test_a_key_without_credit_pays_and_is_served(gateway):
    customer = await gateway.customer("0", account={"plan": "free"}, scopes=SCOPES)
    error = refusal(await fetch(customer.post(body=chat())), 402, "billing_required")
    assert error["billing"]["next"] == "metergate billing setup"
    start = error["billing"]["setup_url"].removeprefix("http://127.0.0.1:8080")
    assert start == "/console/credit"
    async with gateway.session.get(f"{gateway.url}{start}") as answer:  # where one signs in, and is led back
        assert answer.url.query["next"] == "/credit"
        assert "metergate billing setup" in await answer.text()
    assert "metergate billing setup" in await visit(gateway, "/pay")

    page = await page_of(customer, "setup", amount_usd="10.00")
    shown = await visit(gateway, page)
    assert set(FORMS.findall(shown)) == {"approve", "3ds", "decline"}
    assert "10.00 USD" in shown
    assert "insufficient_funds" in await visit(gateway, page, "decline")
    asked = await visit(gateway, page, "3ds")
    assert set(FORMS.findall(asked)) == {"confirm", "reject"}
    assert "dispute" in FORMS.findall(await visit(gateway, page, "confirm"))

    async def has(balance_usd):
        return (await customer.balance())["balance_usd"] == balance_usd

    await until(lambda: has("10.00"))
    served = await fetch(customer.post(body=chat()))
    assert served.status == 200

    await visit(gateway, page, "dispute")

    async def is_suspended():
        return (await customer.balance())["status"] == "suspended"

    await until(is_suspended)
    await until(lambda: refused(customer))
    await visit(gateway, page, "win")
    await until(lambda: served_again(customer))

    async with gateway.session.get(f"{gateway.url}/pay/{'x' * 43}") as answer:
        assert answer.status == 404
    async with gateway.session.post(f"{gateway.url}/pay/{'x' * 43}", data={"action": "approve"}) as answer:
        assert answer.status == 404


async def refused(customer: Customer) -> bool:
    return (await fetch(customer.post(body=chat()))).status == 402


async def served_again(customer: Customer) -> bool:
    return (await fetch(customer.post(body=chat()))).status == 200
