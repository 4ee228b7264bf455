"""Gateways that sell by Stripe: from an order to its credit, by their own endpoints and their work beside them."""

import asyncio
import time
from dataclasses import replace

from billing.money import parse_usd
from billing.payments.flows import Wanted
from gateway.config.settings import Secret, Settings
from tests.gateway.conftest import Gateway, MakeGateway
from tests.support.gateways import until
from tests.support.stripe_fake import FakeStripe, signed

SECRET = "whsec_of_the_gateway"


async def test_two_gateways_are_told_of_a_payment_at_once(make_gateway: MakeGateway) -> None:
    async with FakeStripe().serving() as stripe:
        stripe.state.now = int(time.time())

        def selling(settings: Settings) -> Settings:
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
        assert payments is not None
        order = await payments.flows.checkout(Wanted(customer.account_id, "first", parse_usd("25")))
        stripe.pages.pay(order.checkout_id or "")

        async def deliver(gateway: Gateway, event: dict[str, object]) -> int:
            body, headers = signed(event, SECRET)
            async with gateway.session.post(f"{gateway.url}/api/webhooks/stripe", data=body, headers=headers) as answer:
                return answer.status

        calls = [deliver(gateway, event) for event in stripe.state.events for gateway in gateways]
        assert set(await asyncio.gather(*calls)) == {200}

        async def credited() -> bool:
            return (await payments.orders.get(order.id)).status == "credited"

        await until(credited)
        rows = await gateways[0].runtime.database.rows("SELECT amount_nano FROM transfers WHERE kind = 'purchase'")
        assert [row["amount_nano"] for row in rows] == [parse_usd("25")]
        assert b"metergate_payment_events_parked" in await gateways[0].metrics()
        assert stripe.violations == []
