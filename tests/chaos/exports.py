"""Exports under kills and freezes: the other side has each usage event once by its id, and the ledger's sum.

A Lago of the tests takes what gateways export. It loses answers, cuts requests off and is busy now and then, while
gateways, Redis and Postgres are killed under load.
"""

import asyncio
import random
from collections import Counter

from tests.chaos.background import STRIKES
from tests.chaos.clients import Load, Mix
from tests.chaos.harness import Stack, running
from tests.chaos.quiet import wait_until_quiet
from tests.chaos.waiting import until
from tests.support.usage_peers import FakeLago

CONCURRENCY = 12
PEER_FAULTS = ("lose_answer", "refuse", "fail", "busy")
# An export whose gateway died goes on within a minute; after failures it pauses, up to five.
EXPORTED_S = 600.0
EVENTS = """SELECT account_id, request_id, charged_nano FROM usage_events
WHERE outcome = 'settled' OR input_tokens + output_tokens > 0 OR charged_nano > 0"""


async def exports(*, times: int, seed: int, keep: bool) -> Counter[str]:
    """Run; what became of all usage events."""
    chance = random.Random(seed)  # noqa: S311 - faults and load, not a secret
    lago = FakeLago()
    async with (
        lago.serving(),
        running(workers=2, keep=keep, variables={"LAGO_API_URL": lago.url, "LAGO_API_KEY": lago.key}) as stack,
    ):
        customers = [(await stack.customer("1000"), 1.0) for _ in range(3)]
        stack.load = load = Load(stack, customers, CONCURRENCY, seed, Mix(longs=0.0))
        load.start()
        try:
            for number in range(times):
                enough = len(lago.events) + 1
                await until(lambda enough=enough: len(lago.events) >= enough, "exports go on", EXPORTED_S)
                await asyncio.sleep(chance.uniform(0.0, 1.0))
                if not lago.faults:  # pauses double with each failure in a row
                    lago.faults.extend((chance.choice(PEER_FAULTS), None, chance.choice(PEER_FAULTS)))
                fault = STRIKES[number % len(STRIKES)] if times >= len(STRIKES) else chance.choice(STRIKES)
                print(f"{fault.name} (after {len(lago.events)} exported events)", flush=True)
                await fault.strike(stack, chance)
        finally:
            await load.stop()
        await wait_until_quiet(stack)
        return await _found(stack, lago)


async def _found(stack: Stack, lago: FakeLago) -> Counter[str]:
    async with stack.runtime() as runtime:
        wanted = {
            (row["account_id"], row["request_id"]): row["charged_nano"] for row in await runtime.database.rows(EVENTS)
        }
    found: Counter[str] = Counter()
    try:
        await until(lambda: wanted.keys() <= lago.events.keys(), "all events are exported", EXPORTED_S)
    except AssertionError:
        found[f"WRONG: {len(wanted.keys() - lago.events.keys())} events were never exported"] += 1
    found["events, exported once by their ids"] += len(wanted.keys() & lago.events.keys())
    for each in lago.events.keys() - wanted.keys():
        found[f"WRONG: {each} is in no ledger"] += 1
    if lago.nano != sum(wanted.values()):
        found[f"WRONG: exports say {lago.nano} nano-USD, the ledger {sum(wanted.values())}"] += 1
    found.update(f"WRONG: {violation}" for violation in lago.violations)
    return found
