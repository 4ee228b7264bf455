"""A gateway whose reports come from a replica, which here is the primary: what is no replica is not used."""

from dataclasses import replace

import pytest

from gateway.config.secret import Secret
from tests.gateway.conftest import chat
from tests.support.answering import until
from tests.support.gateways import ask, metric

pytestmark = pytest.mark.slow


async def test_reports_go_on_where_the_replica_is_none(make_gateway, database_url):
    gateway = await make_gateway(change=lambda given: replace(given, database_replica_url=Secret(database_url)))
    customer = await gateway.customer()
    assert (await ask(customer, chat())).status == 200
    await gateway.flush()
    assert len(await customer.events()) == 1
    assert not gateway.runtime.replica.is_used

    async def late():
        return await metric(gateway, "metergate_replica_lag_seconds") >= 5.0

    await until(late)
