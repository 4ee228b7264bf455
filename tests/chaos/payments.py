"""Payments under kills and freezes: each account has exactly what was paid for, less what was given back.

`python -m tests.chaos payments` strikes `--times` times while payers buy credit and plans from the local provider, are
declined, get money back, dispute, win and lose. A button or a call is repeated until it is answered, so that a payment
is broken off between any two of its steps and goes on in a gateway that knows nothing of it but what Postgres has.
"""

import asyncio
import random
from typing import Final

from tests.chaos.faults import KILLS, OTHERS
from tests.chaos.harness import running
from tests.chaos.paid import judge_payments
from tests.chaos.payers import Payers

PAYERS: Final = 12
LOCAL: Final = {"PAYMENT_PROVIDER": "local"}
STRIKES: Final = (
    *KILLS,
    *(
        fault
        for fault in OTHERS
        if "frozen" in fault.name or fault.name in ("SIGTERM to a worker", "an account's state lost in Redis")
    ),
)


async def payments(*, times: int, seed: int, keep: bool) -> bool:
    """Run and print; whether each account has exactly what was paid for."""
    chance = random.Random(seed)  # noqa: S311 - faults and load, not a secret
    async with running(workers=2, keep=keep, variables=LOCAL) as stack:
        payers = Payers(stack, chance)
        tasks = [asyncio.create_task(payers.run(each)) for each in range(PAYERS)]
        for number in range(times):
            await asyncio.sleep(chance.uniform(1.0, 3.0))
            fault = STRIKES[number % len(STRIKES)] if times >= len(STRIKES) else chance.choice(STRIKES)
            print(f"{fault.name} (after {payers.did['checkout']} checkouts)", flush=True)
            await fault.strike(stack, chance)
            await asyncio.sleep(3.0)
        payers.stopped = True
        await asyncio.gather(*tasks)
        found = await judge_payments(stack, payers, hurry=False)
    print("what payers did:", *(f"{count:>6} {name}" for name, count in sorted(payers.did.items())), sep="\n")
    print("what became of it:", *(f"{count:>6} {name}" for name, count in sorted(found.items())), sep="\n")
    return not any(name.startswith("WRONG") for name in found)
