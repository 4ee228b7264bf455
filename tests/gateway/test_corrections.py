"""What operators correct is felt where requests are admitted: Redis has the ledger's balance."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from billing.ledger.catalogue import sync_prices
from billing.ledger.verify import verify
from billing.pricing import PriceTable, from_canonical_json
from tests.gateway.conftest import chat
from tests.support.answering import BOUND_S
from tests.support.gateways import ask

DAY = timedelta(days=1)


async def test_adjustments_and_reprices_are_felt_at_admission(gateway):
    customer = await gateway.customer("0.01")
    first = await ask(customer, chat())
    assert first.status == 200
    await gateway.flush()
    (event,) = await customer.events()
    path = f"/accounts/{customer.account_id}"
    down = {"amount_usd": "-0.02", "idempotency_key": "down", "reason": "taken"}
    below = await gateway.admin("POST", f"{path}/adjustments", down)
    assert below["balance_usd"].startswith("-0.01")
    async with asyncio.timeout(BOUND_S):
        while (refused := await ask(customer, chat())).status == 200:
            await asyncio.sleep(0.02)
    assert (refused.status, refused.json["error"]["code"]) == (402, "billing_required")
    assert (await customer.balance())["balance_usd"] == below["balance_usd"]

    database = gateway.runtime.database
    found = await gateway.runtime.reports.priced_event(event["id"])
    price_id = found.event.price_id
    stored = from_canonical_json(await database.value("SELECT said FROM prices WHERE id = $1", price_id))
    free = replace(stored, per_million=dict.fromkeys(stored.per_million, 0))
    await sync_prices(database, PriceTable([free]))
    now = datetime.now(UTC)
    period = {
        "provider": event["provider"],
        "model": event["provider_model"],
        "since": (now - DAY).isoformat(),
        "until": (now + DAY).isoformat(),
        "dry_run": False,
    }
    same = await gateway.admin("POST", "/reprice", period)
    assert (same["requests"], same["corrected"]) == (1, 0)
    given = await gateway.admin("POST", "/reprice", {**period, "price_id": free.id})
    assert (given["corrected"], given["would_be_usd"]) == (1, "0.00")
    assert (await customer.balance())["balance_usd"] == "-0.01"
    up = {"amount_usd": "1", "idempotency_key": "up", "reason": "given"}
    await gateway.admin("POST", f"{path}/adjustments", up)
    assert (await ask(customer, chat())).status == 200
    await gateway.admin("PATCH", path, {"status": "closed", "reason": "over"})
    async with asyncio.timeout(BOUND_S):
        while (await ask(customer, chat())).status == 200:
            await asyncio.sleep(0.02)
    assert (await customer.balance())["status"] == "closed"
    await gateway.flush()
    assert (await verify(database)).ok
