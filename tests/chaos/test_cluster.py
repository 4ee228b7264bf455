"""Whole gateways on a Redis Cluster of which a master is killed under load: the books are exact, and nobody else waits.

Two workers, and three masters with a replica each; the replica that takes over lacks the last half second.
`python -m tests.chaos --only cluster` has thirty of each fault.
"""

import asyncio
from collections.abc import Iterable

import psutil
import pytest

from tests.chaos.clients import Ended, Exchange
from tests.chaos.cluster import always_served, kill_ahead, losing_a_master, master_of
from tests.chaos.faults import Fault
from tests.chaos.harness import SILENT_AFTER_10_S, Customer, Stack, running
from tests.chaos.run import Struck, make_customers, run_round
from tests.chaos.waiting import until
from tests.support.redis_cluster import MASTERS

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

# Too few to meet the bound on one customer's requests at once.
CLIENTS = 30
SEED = 23


async def customers_of_every_master(stack: Stack) -> list[tuple[Customer, float]]:
    """Such as the chaos has, and more until every master serves one whom nothing but Redis can refuse."""
    customers = await make_customers(stack)
    while len({(await master_of(stack, each)).port for each in stack.customers if always_served(each)}) < MASTERS:
        customers.append((await stack.customer("1000"), 8))
    return customers


def serving(stack: Stack) -> set[int]:
    """The workers that clients are connected to now."""
    port = int(stack.address.rpartition(":")[2])
    return {
        pid
        for pid in stack.worker_pids()
        for each in psutil.Process(pid).net_connections("tcp")
        if each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port
    }


def assert_only_its_accounts_waited(struck: Struck, exchanges: Iterable[Exchange]) -> None:
    """From the master's death until one of its accounts was served again the others were, and nothing else happened."""
    hit = struck.hit
    ends_s = hit.at_s + struck.recovered_s
    meanwhile = [each for each in exchanges if hit.at_s <= each.sent_s < ends_s and always_served(each.customer)]
    refused = [each for each in meanwhile if each.ended is Ended.refused and each.plan.do == "ok"]
    assert any(each.ended is Ended.whole for each in meanwhile if each.customer not in hit.customers)
    assert refused, "nobody noticed that the master was away"
    assert all(each.customer in hit.customers for each in refused), refused
    assert {(each.status, each.note) for each in refused} == {(503, "temporarily_unavailable")}


async def test_a_master_dies_and_nothing_is_lost_or_doubled():
    fault = Fault("a master is killed ahead of its replica", losing_a_master(kill_ahead), 0.5)
    async with running(workers=2, on_cluster=True, defaults=SILENT_AFTER_10_S) as stack:
        await until(lambda: len(stack.worker_pids()) == stack.workers, "every worker runs")
        workers = stack.worker_pids()
        customers = await customers_of_every_master(stack)
        watching = asyncio.create_task(until(lambda: serving(stack) == set(workers), "every worker serves clients"))
        made = await run_round(stack, "cluster", customers, [fault], concurrency=CLIENTS, seed=SEED, most_pause_s=0.5)
        await watching
        assert stack.worker_pids() == workers, f"a worker did not survive\n{stack.log_tail()}"
        assert await stack.stop_gateway() == 0, stack.log_tail()
    verdict = made.verdict
    assert verdict.ok, "\n".join(verdict.details)
    assert verdict.whole > 100, "too little load to prove anything"
    (struck,) = made.struck
    assert_only_its_accounts_waited(struck, made.exchanges)
    cut = [each for each in made.exchanges if each.ended is Ended.cut and each.plan.do != "cut"]
    assert not cut, "answers broke off because a master died"
