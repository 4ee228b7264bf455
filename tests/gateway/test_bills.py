"""A gateway compares a provider's bill by itself, and shows by how much it differs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.config.providers import BillingConfig, Key, ProviderConfig
from gateway.config.secret import Secret
from tests.support.answering import BOUND_S
from tests.support.provider_bills import KEY, billing_apis, cost

if TYPE_CHECKING:
    pass


async def test_a_bill_is_compared_while_it_serves(make_gateway):
    async with billing_apis() as apis:
        day = (datetime.now(UTC) - timedelta(days=2)).date()
        apis.add("v1/organization/costs", day, cost("gpt-4o, input", "12.5"))
        billing = BillingConfig(source="openai", base_url=apis.base_url("openai"), given_key=Key(Secret(KEY)))

        def billed(settings):
            entry = ProviderConfig("billed", "openai", "http://127.0.0.1:1/v1", Secret("key"), billing=billing)
            return replace(settings, providers={**settings.providers, "billed": entry})

        gateway = await make_gateway(change=billed)
        wanted = b'metergate_provider_difference_usd{provider="billed"} 12.5'
        async with asyncio.timeout(BOUND_S):
            while wanted not in await gateway.metrics():
                await asyncio.sleep(0.02)
        found = await gateway.admin("GET", f"/providers/billed/bill?since={day}")
        assert (found["difference_usd"], found["data"][0]["category"]) == ("12.50", "missing_here")
        assert KEY not in f"{gateway.runtime.settings!r}"
