"""Payments that are broken off are paid for once: a gateway, a worker and Postgres are killed while payers pay."""

import asyncio
import random

import pytest

from tests.chaos.faults import kill_gateway, kill_postgres, kill_worker
from tests.chaos.harness import running, until
from tests.chaos.paid import judge_payments
from tests.chaos.payers import Payers
from tests.chaos.payments import LOCAL


@pytest.mark.slow
async def test_what_is_killed_is_paid_once() -> None:
    chance = random.Random(1)  # noqa: S311 - which faults when
    async with running(workers=2, variables=LOCAL) as stack:
        payers = Payers(stack, chance)
        tasks = [asyncio.create_task(payers.run(each)) for each in range(6)]
        for kill in (kill_worker, kill_gateway, kill_postgres):
            enough = payers.did["checkout"] + 8
            await until(lambda enough=enough: payers.did["checkout"] >= enough, "pages are opened")
            await kill(stack, chance)
        payers.stopped = True
        await asyncio.gather(*tasks)
        found = await judge_payments(stack, payers, hurry=True)
    assert [name for name in found if name.startswith("WRONG")] == []
    assert found["credit credited"]
    assert found["accounts exact"] >= 6
