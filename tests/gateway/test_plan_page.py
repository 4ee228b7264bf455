"""From an exhausted quota to the plan that has more: the refusal's address, the page, the payment, and the answer."""

import asyncio
import re
from dataclasses import replace
from html import unescape
from urllib.parse import urlsplit

from billing.quotas import Metric, Quota, Window
from gateway.config.settings import Settings
from tests.gateway.conftest import MakeGateway, chat
from tests.support.gateways import BOUND_S, ask, refusal


def once_a_day(settings: Settings) -> Settings:
    """The free plan has one request a day."""
    free = replace(settings.plans["free"], quotas=(Quota(Window.day, Metric.requests, 1),))
    return replace(settings, plans={**settings.plans, "free": free})


async def test_an_exhausted_quota_leads_to_a_plan_that_answers(make_gateway: MakeGateway) -> None:
    gateway = await make_gateway(change=once_a_day)
    customer = await gateway.customer(account={"plan": "free"})
    asked = chat(max_completion_tokens=16)
    assert (await ask(customer, asked)).status == 200
    error = refusal(await ask(customer, asked), 429, "quota_exceeded")
    assert error["upgrade"]["plan"] == "starter"
    page = gateway.url + urlsplit(error["upgrade"]["url"]).path

    async def form(url: str, status: int = 200, **fields: str) -> str:
        method = "POST" if fields else "GET"
        async with gateway.session.request(method, url, data=fields or None) as answer:
            text = await answer.text()
            assert answer.status == status, text
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            return text

    assert "99.00 USD a month" in await form(page)
    await form(page.replace("starter", "free"), 404)
    assert "billing:setup" in await form(page, 403, key=customer.key)  # whoever may spend may not buy
    await form(page, 401, key="mg_wrong")
    payer = await gateway.person(customer.account_id)
    (paid_at,) = re.findall(r'href="([^"]+)"', await form(page, key=payer))
    await form(gateway.url + urlsplit(unescape(paid_at)).path, action="approve")

    async with asyncio.timeout(BOUND_S):
        while (await ask(customer, asked)).status != 200:
            await asyncio.sleep(0.05)
    async with customer.get("/api/billing/status") as answer:
        said = await answer.json()
    assert (said["plan"]["id"], said["subscription"]["plan"], said["state"]) == ("starter", "starter", "ready")
    daily = next(each for each in said["windows"] if each["window"] == "day")
    assert daily["used"] > 0
    assert daily["remaining"] == daily["limit"] - daily["used"]

    # With a subscription the same page changes it.
    assert "The plan is Professional now" in await form(page.replace("starter", "professional"), key=payer)
    async with customer.get("/api/billing/status") as answer:
        assert (await answer.json())["plan"]["id"] == "professional"
