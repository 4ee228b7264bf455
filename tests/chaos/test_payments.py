"""Payments that are broken off are paid for once: a gateway, a worker and Postgres are killed while payers pay."""

import random

import pytest

from tests.chaos.faults import kill_gateway, kill_postgres, kill_worker
from tests.chaos.harness import running
from tests.chaos.paid import judge_payments
from tests.chaos.payments import paying, shop_of
from tests.chaos.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


async def test_what_is_killed_is_paid_once():
    chance = random.Random(1)  # noqa: S311 - which faults when
    async with (
        shop_of("local", chance) as shop,
        running(workers=2, variables=shop.variables) as stack,
        paying(stack, shop, chance, 6) as payers,
    ):
        for kill in (kill_worker, kill_gateway, kill_postgres):
            enough = payers.did["checkout"] + 8
            await until(lambda enough=enough: payers.did["checkout"] >= enough, "pages are opened")
            await kill(stack, chance)
        await payers.finish()
        found = await judge_payments(stack, payers, hurry=True)
    assert [name for name in found if name.startswith("WRONG")] == []
    assert found["credit credited"]
    assert found["accounts exact"] >= 6
