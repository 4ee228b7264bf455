"""A worker that has ended: the others are told by its lease."""

import logging

import pytest
from ulid import ULID

from billing.database.connection import Database
from billing.holds.redis.layout import STATE_VERSION
from billing.ledger import leases
from billing.ledger.leases import ending_leases, renew_lease


async def test_the_lease_of_an_ended_worker_is_ended(database_url):
    database, gateway_id, other_id = Database(database_url), str(ULID()), str(ULID())
    await renew_lease(database.rows, other_id, 5.0, STATE_VERSION)
    await renew_lease(database.rows, gateway_id, 5.0, STATE_VERSION)
    async with ending_leases(database_url) as end:
        await end(gateway_id)
    rows = await renew_lease(database.rows, other_id, 5.0, STATE_VERSION)
    assert {row.gateway_id: row.ended for row in rows} == {other_id: False, gateway_id: True}
    await database.close()


async def test_a_lease_that_can_not_be_ended_lapses_by_itself(caplog):
    caplog.set_level(logging.INFO)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(leases, "TRIED_FOR_S", 0.0)
        async with ending_leases("postgresql://127.0.0.1:1/nowhere") as end:
            await end("gateway")
    assert "the lease of gateway runs out by itself" in caplog.text
