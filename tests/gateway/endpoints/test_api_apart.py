"""Calls of the API that wait in Postgres hold up no metered request and no debit."""

import asyncio

from billing.database.connection import Database
from tests.gateway.conftest import chat

# More than a gateway has connections.
CALLS = 12
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


async def test_calls_that_wait_for_a_locked_row_stall_no_admission_and_no_debit(make_gateway, database_url):
    gateway = await make_gateway(postgres_timeout_s=60)
    customer = await gateway.customer()
    headers = {"Authorization": f"Bearer {await gateway.person(customer.account_id)}"}
    other = Database(database_url)
    row = await other.row("SELECT id FROM organizations WHERE account_id = $1", customer.account_id)
    assert row is not None

    async def rename(number):
        url = f"{gateway.url}/api/orgs/{row['id']}"
        async with gateway.session.patch(url, json={"name": f"Acme {number}"}, headers=headers) as answer:
            return answer.status

    async with other.transaction() as connection:
        await connection.execute("SELECT 1 FROM organizations WHERE id = $1 FOR UPDATE", row["id"])
        calls = [asyncio.ensure_future(rename(number)) for number in range(CALLS)]
        async with asyncio.timeout(60):
            while await other.value(WAITING) < gateway.runtime.settings.defaults.stores.api_pool_size:
                await asyncio.sleep(0.01)
            async with customer.post(body=chat()) as answer:  # a key that nobody has shown yet, an account to be loaded
                assert answer.status == 200, await answer.text()
                request_id = answer.headers["x-request-id"]
            await gateway.flush()
            assert await other.value("SELECT count(*) FROM usage_events WHERE request_id = $1", request_id) == 1
        assert not any(call.done() for call in calls)
    assert await asyncio.gather(*calls) == [200] * CALLS
    await other.close()
