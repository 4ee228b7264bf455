"""Payments under kills and freezes: each account has exactly what was paid for, less what was given back.

`python -m tests.chaos payments` strikes `--times` times while payers buy credit and plans from the local provider, and
then as often while they buy from Stripe's fake. They are declined, get money back, dispute, win and lose, their plans
renew, and their cards are charged when their credit runs low. A button or a call is repeated until it is answered, so
that a payment is broken off between any two of its steps and goes on in a gateway that knows nothing of it but what
Postgres has.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from billing.database.connection import Database
from tests.chaos.faults import KILLS, OTHERS
from tests.chaos.harness import Stack, running
from tests.chaos.paid import judge_payments
from tests.chaos.payers import Payers
from tests.chaos.tills import Till, local_till, stripe_till
from tests.support.stripe_fake import FakeStripe

PAYERS = 12
STRIKES = (
    *KILLS,
    *(
        fault
        for fault in OTHERS
        if "frozen" in fault.name or fault.name in ("SIGTERM to a worker", "an account's state lost in Redis")
    ),
)


@dataclass(frozen=True, slots=True)
class Shop:
    """What a stack sells by: the gateway's variables, and the till, once the stack runs; `violations` are calls that
    the provider would not have had."""

    variables: Mapping[str, str]
    till: Callable[[Stack], AbstractAsyncContextManager[Till]]
    violations: Callable[[], Iterable[str]] = tuple


@asynccontextmanager
async def shop_of(provider: str, chance: random.Random) -> AsyncIterator[Shop]:
    """`local`, or `stripe`, whose fake serves meanwhile and has the plans' prices."""
    if provider == "local":
        yield Shop({"PAYMENT_PROVIDER": "local"}, local_till)
        return
    async with FakeStripe().serving() as fake:
        fake.state.now = int(time.time())
        for plan_id, cents in (("small", 2_000), ("large", 5_000)):
            fake.subscriptions.add_price(plan_id, cents)
        variables = {
            "PAYMENT_PROVIDER": "stripe",
            "STRIPE_API_KEY": fake.api_key,
            "STRIPE_WEBHOOK_SECRET": fake.secret,
            "STRIPE_API_BASE": fake.url,
        }
        yield Shop(variables, lambda stack: stripe_till(stack, fake, chance), lambda: fake.violations)


@asynccontextmanager
async def paying(stack: Stack, shop: Shop, chance: random.Random, number: int) -> AsyncIterator[Payers]:
    """So many payers that pay; `Payers.finish` ends it, and what the provider tells of it goes on."""
    database = Database(stack.endpoints.database_url)
    try:
        async with shop.till(stack) as till:
            payers = Payers(stack, chance, till, database)
            payers.start(number)
            yield payers
    finally:
        await database.close()


async def payments(*, times: int, seed: int, keep: bool) -> bool:
    """Run with the local provider and with Stripe's fake, and print; whether each account has exactly what was paid
    for."""
    return all([await _payments(provider, times, seed, keep=keep) for provider in ("local", "stripe")])


async def _payments(provider: str, times: int, seed: int, *, keep: bool) -> bool:
    chance = random.Random(seed)  # noqa: S311 - faults and load, not a secret
    async with (
        shop_of(provider, chance) as shop,
        running(workers=2, keep=keep, variables=shop.variables) as stack,
        paying(stack, shop, chance, PAYERS) as payers,
    ):
        for number in range(times):
            await asyncio.sleep(chance.uniform(1.0, 3.0))
            fault = STRIKES[number % len(STRIKES)] if times >= len(STRIKES) else chance.choice(STRIKES)
            print(f"{provider}: {fault.name} (after {payers.did['checkout']} checkouts)", flush=True)
            await fault.strike(stack, chance)
            await asyncio.sleep(3.0)
        await payers.finish()
        found = await judge_payments(stack, payers, hurry=False)
        found.update(f"WRONG: Stripe would not have had this call: {each}" for each in shop.violations())
    print("what payers did:", *(f"{count:>6} {name}" for name, count in sorted(payers.did.items())), sep="\n")
    print("what became of it:", *(f"{count:>6} {name}" for name, count in sorted(found.items())), sep="\n", flush=True)
    return not any(name.startswith("WRONG") for name in found)
