"""Ten minutes of mixed traffic: memory stays flat, Redis keeps no more than what lives, the journal drains.

Memory is what the workers have resident together, as the mean of a minute: the last minute's is at most 5 % above the
second's. Keys in Redis are two a customer and four a partition.
"""

import asyncio
import random
import time
from contextlib import suppress

import psutil

from billing.holds.redis.client import RedisClient
from tests.chaos.clients import Load
from tests.chaos.harness import Stack, running
from tests.chaos.ledger_check import judge
from tests.chaos.quiet import wait_until_quiet
from tests.chaos.run import make_customers

SAMPLE_S = 2.0
GROWTH_LIMIT = 0.05
FIXED_KEYS = 4


async def soak(*, minutes: int, concurrency: int, seed: int) -> bool:
    """Run and print; whether everything held."""
    async with running() as stack:
        customers = await make_customers(stack)
        load = Load(stack, customers, concurrency, seed)
        load.start()
        means, keys = [], []
        for minute in range(minutes):
            mean, count = await _minute(stack)
            means.append(mean)
            keys.append(count)
            made = len(load.exchanges)
            print(f"minute {minute + 1}: {mean / 2**20:.1f} MiB, {count} keys, {made} requests", flush=True)
        await load.stop()
        left = await wait_until_quiet(stack)
        for customer, _ in customers:
            await load.ask(customer, random.Random(0))  # noqa: S311 - load, not a secret
        left += await wait_until_quiet(stack)
        verdict = await judge(stack, load.exchanges, 0.0)
    growth = means[-1] / means[1] - 1
    most_keys = 2 * len(customers) + FIXED_KEYS
    print(f"memory {growth:+.1%}, at most {max(keys)} keys of {most_keys}, {left} entries left in the journal")
    print(f"{verdict.requests} requests, {verdict.whole} whole answers, {verdict.debits} debits")
    print(*verdict.details, sep="\n")
    return growth <= GROWTH_LIMIT and max(keys) <= most_keys and left == 0 and verdict.ok


async def _minute(stack: Stack) -> tuple[float, int]:
    """The workers' mean resident memory in bytes, and the number of keys in Redis at the end."""
    samples, ends_s = [], time.monotonic() + 60.0
    while time.monotonic() < ends_s:
        await asyncio.sleep(SAMPLE_S)
        with suppress(psutil.NoSuchProcess):
            samples.append(sum(psutil.Process(pid).memory_info().rss for pid in stack.worker_pids()))
    link = RedisClient(stack.endpoints.redis_url)
    try:
        return sum(samples) / len(samples), int(await link.command("DBSIZE"))
    finally:
        await link.close()
