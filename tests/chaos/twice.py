"""Two faults within moments of one another: what may be lost then is bounded, and no more is.

A worker dies and Redis is emptied: debits that only those two had are gone. How much traffic that is, in milliseconds
before the worker's death, is measured beside the bound that docs/reliability.md states.
"""

import asyncio
import random
import time
from signal import SIGCONT, SIGKILL, SIGSTOP

from tests.chaos.faults import Fault, all_of_postgres, command_redis, send_signal, some_worker
from tests.chaos.harness import Excuse, Stack
from tests.chaos.waiting import until

# Then the other workers have written what the dead one had settled: nothing may be lost.
APART_S = 1.0
# Of a worker's traffic before its death, where both come at once: a debit's wait for its transaction, and that.
BOUND_S = 0.5
# Postgres stands still for so long before the worker dies: nothing can be brought to it, which adds to the bound.
BLOCKED_S = 1.5
# A client, one of many in this process, may see its answer's end so much later than it came.
SEEN_LATE_S = 0.25


async def kill_and_empty_at_once(stack: Stack, chance: random.Random) -> None:
    """kill -9 of a worker, and FLUSHALL in the next moment."""
    await _both(stack, chance, BOUND_S, apart_s=0.0)


async def kill_and_empty(stack: Stack, chance: random.Random) -> None:
    """kill -9 of a worker; FLUSHALL a second later."""
    await _both(stack, chance, 0.0)


async def kill_and_empty_while_blocked(stack: Stack, chance: random.Random) -> None:
    """The same while Postgres stands still, from before the first to after the second."""
    await _blocked(stack, chance, BOUND_S + BLOCKED_S)


async def kill_and_empty_with_spools(stack: Stack, chance: random.Random) -> None:
    """The same again, where workers have a second copy on their disk: what broke off may be free, and that is all."""
    await _blocked(stack, chance, 0.0)


async def _blocked(stack: Stack, chance: random.Random, bound_s: float) -> None:
    await until(stack.postgres_answers, "Postgres answers")
    pids = all_of_postgres(stack)
    send_signal(pids, SIGSTOP)
    try:
        await asyncio.sleep(BLOCKED_S)
        await _both(stack, chance, bound_s)
    finally:
        send_signal(pids, SIGCONT)


async def _both(stack: Stack, chance: random.Random, bound_s: float, apart_s: float = APART_S) -> None:
    worker = await some_worker(stack, chance)
    send_signal([worker], SIGKILL)
    killed_s = time.monotonic()
    stack.excuses.append(Excuse(killed_s - bound_s, killed_s + SEEN_LATE_S, killed_s))
    await asyncio.sleep(apart_s)
    await command_redis(stack, "FLUSHALL")


TWICE = (
    Fault("a worker killed, FLUSHALL at once", kill_and_empty_at_once, 6.0),
    Fault("a worker killed, FLUSHALL 1 s later", kill_and_empty, 6.0),
    Fault("the same, Postgres blocked", kill_and_empty_while_blocked, 6.0),
)
WITH_SPOOLS = Fault("the same, Postgres blocked, with spools", kill_and_empty_with_spools, 6.0)
