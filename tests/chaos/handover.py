"""Workers that are replaced under load (`metergate reload`): not one request is refused, cut or lost.

Customers have credit for everything, the provider serves everything, and nobody leaves: so every request must be
answered whole. Each time all workers are replaced, and the next time begins while those before may still end.
"""

import asyncio
import os
import random
import time
from collections import Counter
from signal import SIGUSR2

from tests.chaos.clients import Ended, Exchange, Load, Mix
from tests.chaos.harness import SILENT_AFTER_10_S, Customer, Stack, running
from tests.chaos.ledger_check import judge
from tests.chaos.quiet import wait_until_quiet
from tests.chaos.waiting import until

CLIENTS = 40
WITHOUT_FAILURES = Mix(errors=0.0, cuts=0.0, leaves=0.0, longs=0.05)
REPLACED = "new workers serve; the old ones end with their connections"
MOST_PAUSE_S = 1.0


async def handover(*, times: int, seed: int, keep: bool, clients: int = CLIENTS) -> Counter[str]:
    """Run; how requests ended, and how long the slowest replacement took."""
    chance = random.Random(seed)  # noqa: S311 - load, not a secret
    async with running(workers=2, defaults=SILENT_AFTER_10_S, keep=keep) as stack:
        customers: list[tuple[Customer, float]] = [(await stack.customer("1000"), 1) for _ in range(4)]
        load = Load(stack, customers, clients, seed, WITHOUT_FAILURES)
        load.start()
        await until(lambda: bool(load.exchanges and load.exchanges[0].ended_s), "the first answer")
        took_s = []
        for _ in range(times):
            await asyncio.sleep(chance.random() * MOST_PAUSE_S)
            began_s, place, before = time.monotonic(), len(load.exchanges), set(stack.worker_pids())
            await replace_workers(stack)
            took_s.append(time.monotonic() - began_s)
            await until(lambda place=place: _served_after(load, place), "an answer of a new worker")
            assert len(set(stack.worker_pids()) - before) >= stack.workers
        await load.stop()
        await wait_until_quiet(stack)
        for customer, _ in customers:
            await load.ask(customer, chance)
        left = await wait_until_quiet(stack)
        verdict = await judge(stack, load.exchanges, 0.0, ends_gateways=False)
        found = counted(load.exchanges)
        found.update(f"WRONG: {each}" for each in verdict.details)
        if left or not verdict.ok:
            found[f"WRONG: {left} entries left in the journal, {verdict}"] += 1
        found["ms for the slowest replacement"] = int(max(took_s) * 1000)
        found["times that all workers were replaced"] = times
        assert await stack.stop_gateway() == 0, stack.log_tail()
        return found


def counted(exchanges: list[Exchange]) -> Counter[str]:
    """How they ended; whatever is not whole is wrong."""
    found: Counter[str] = Counter()
    for each in exchanges:
        if each.ended is Ended.whole:
            found["answers whole"] += 1
        else:
            found[f"WRONG: {each.ended.value} ({each.status} {each.note})"] += 1
    return found


async def replace_workers(stack: Stack) -> None:
    """Have the supervisor put new workers in the place of all, and wait until they serve."""
    assert stack.supervisor is not None
    before = stack.log.read_text("utf-8", "replace").count(REPLACED)
    os.kill(stack.supervisor.pid, SIGUSR2)
    await until(lambda: stack.log.read_text("utf-8", "replace").count(REPLACED) > before, "new workers serve")


def _served_after(load: Load, place: int) -> bool:
    return any(each.ended is Ended.whole for each in load.exchanges[place:])
