"""Gateways that sell by Stripe: from an order to its credit, by their own endpoints and their work beside them."""

import asyncio
import re
import time
from dataclasses import replace
from html import unescape
from urllib.parse import urlsplit

from billing.money import parse_usd
from billing.payments.flows import Wanted
from billing.quotas import Metric, Quota, Window
from gateway.config.settings import Secret, Settings
from tests.gateway.conftest import chat
from tests.support.answering import BOUND_S, until
from tests.support.gateways import ask, refusal
from tests.support.stripe_fake import FakeStripe, signed

SECRET = "whsec_of_the_gateway"


async def test_two_gateways_are_told_of_a_payment_at_once(make_gateway):
    async with FakeStripe().serving() as stripe:
        stripe.state.now = int(time.time())

        def selling(settings):
            return replace(
                settings,
                payment_provider="stripe",
                stripe_api_key=Secret(stripe.api_key),
                stripe_webhook_secret=Secret(f"whsec_before,{SECRET}"),
                stripe_api_base=stripe.url,
            )

        gateways = [await make_gateway(change=selling) for _ in range(2)]
        customer = await gateways[0].customer("0")
        payments = gateways[0].runtime.services.payments
        order = await payments.flows.checkout(Wanted(customer.account_id, "first", parse_usd("25")))
        stripe.pages.pay(order.checkout_id or "")

        async def deliver(gateway, event):
            body, headers = signed(event, SECRET)
            async with gateway.session.post(f"{gateway.url}/api/webhooks/stripe", data=body, headers=headers) as answer:
                return answer.status

        calls = [deliver(gateway, event) for event in stripe.state.events for gateway in gateways]
        assert set(await asyncio.gather(*calls)) == {200}

        async def credited():
            return (await payments.orders.get(order.id)).status == "credited"

        await until(credited)
        rows = await gateways[0].runtime.database.rows("SELECT amount_nano FROM transfers WHERE kind = 'purchase'")
        assert [row["amount_nano"] for row in rows] == [parse_usd("25")]
        assert b"metergate_payment_events_parked" in await gateways[0].metrics()
        assert stripe.violations == []


def once_a_day(settings: Settings) -> Settings:
    """The free plan has one request a day."""
    free = replace(settings.plans["free"], quotas=(Quota(Window.day, Metric.requests, 1),))
    return replace(settings, plans={**settings.plans, "free": free})


async def test_an_exhausted_quota_leads_to_a_plan_that_answers(make_gateway):
    gateway = await make_gateway(change=once_a_day)
    customer = await gateway.customer(account={"plan": "free"})
    asked = chat(max_completion_tokens=16)
    assert (await ask(customer, asked)).status == 200
    error = refusal(await ask(customer, asked), 429, "quota_exceeded")
    assert error["upgrade"]["plan"] == "starter"
    page = gateway.url + urlsplit(error["upgrade"]["url"]).path

    async def form(url, status=200, **fields):
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
        refused = await answer.json()
    assert (refused["plan"]["id"], refused["subscription"]["plan"], refused["state"]) == ("starter", "starter", "ready")
    daily = next(each for each in refused["windows"] if each["window"] == "day")
    assert daily["used"] > 0
    assert daily["remaining"] == daily["limit"] - daily["used"]

    # With a subscription the same page changes it: once what it charges, and by which means, was shown and confirmed.
    async def plan():
        async with customer.get("/api/billing/status") as answer:
            return str((await answer.json())["plan"]["id"])

    dearer = page.replace("starter", "professional")
    for unconfirmed in ({}, {"confirmed": ""}, {"confirmed": "period_end"}, {"confirmed": "nothing"}):
        shown = await form(dearer, key=payer, **unconfirmed)
        assert re.search(r"about (\d+\.\d\d) USD are charged today by .+, for the rest of this period", shown), shown
        assert "Then 299.00 USD at each renewal, next on" in shown
        assert re.search(r'name="confirmed" value="now">Pay about \d+\.\d\d USD and change</button>', shown)
        assert await plan() == "starter"
    assert "You have this plan now" in await form(dearer, key=payer, confirmed="now")
    assert await plan() == "professional"
    assert "The plan Professional stays as it is" in await form(dearer, key=payer, confirmed="now")
    cheaper = await form(page, key=payer, confirmed="now")
    assert "Nothing is charged today; then 99.00 USD" in cheaper
    assert "You get this plan with the next period" in await form(page, key=payer, confirmed="period_end")
    assert await plan() == "professional"
