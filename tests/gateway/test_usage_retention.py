"""A gateway drops old months of usage events by itself, and says so where one stays."""

import asyncio
from datetime import UTC, datetime, timedelta

from billing.ledger.sums import roll
from billing.ledger.verify import verify
from billing.ledger.writer import write_debits
from tests.billing.ledger.test_debits import debit
from tests.gateway.conftest import chat
from tests.support.answering import BOUND_S
from tests.support.gateways import ask

MONTHS = "SELECT count(*) FROM pg_class WHERE relispartition AND relname = $1"


async def test_old_months_go_while_it_serves(make_gateway):
    first = await make_gateway()
    customer = await first.customer()
    database = first.runtime.database
    account = await first.runtime.accounts.get(customer.account_id)
    at = datetime.now(UTC) - timedelta(days=400)
    old = debit(account, admitted_at_ms=int(at.timestamp() * 1000), charged_nano=0, cost_nano=0, input_tokens=0)
    await write_debits(database, [old])
    partition = f"usage_events_{at:%Y_%m}"
    assert await database.value(MONTHS, partition) == 1
    await roll(database, most_fresh=0)
    second = await make_gateway(usage_retention_months=3)
    async with asyncio.timeout(BOUND_S):
        while await database.value(MONTHS, partition):
            await asyncio.sleep(0.02)
    assert (await ask(customer, chat())).status == 200
    assert b"metergate_usage_months_kept 0" in await second.metrics()
    await first.flush()
    found = {check.name: check.differences for check in (await verify(database)).checks if check.name != "prices"}
    assert not any(found.values()), found
