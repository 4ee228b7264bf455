"""Rounds: load, faults at random moments, quiet, a verdict, and rows for the table."""

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.chaos.clients import Ended, Exchange, Load, Mix
from tests.chaos.faults import Fault, Hit
from tests.chaos.harness import Customer, Stack
from tests.chaos.ledger_check import Verdict, judge
from tests.chaos.quiet import wait_until_quiet, wait_until_swept
from tests.chaos.waiting import until

RECOVERY_BOUND_S = 45.0
GRANT_EVERY_S = 1.0
GRANT_USD = "0.002"
POOR_NANO = 10**9


@dataclass(frozen=True, slots=True)
class Struck:
    """One fault that was carried out. `recovered_s` passed from it to the first whole answer of a later request, to one
    of those that it had hit."""

    fault: Fault
    at_s: float
    recovered_s: float
    hit: Hit | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one round; `notes` is what its faults have measured."""

    name: str
    struck: tuple[Struck, ...]
    verdict: Verdict
    exchanges: tuple[Exchange, ...]
    seconds: float
    notes: tuple[str, ...] = ()


async def make_customers(stack: Stack) -> list[tuple[Customer, float]]:
    """Rich and poor ones, with the share of the load that each gets."""
    day = {"window": "day", "metric": "tokens", "limit": 900_000_000}
    tight: list[dict[str, Any]] = [
        {"window": "minute", "metric": "requests", "limit": 120},
        {"window": "day", "metric": "tokens", "limit": 60_000},
        {"window": "month", "metric": "cost", "limit": "0.05"},
    ]
    return [
        (await stack.customer("1000", key_quotas=[day]), 8),
        (await stack.customer("1000", account_quotas=[{"window": "hour", "metric": "cost", "limit": "900"}]), 8),
        (await stack.customer("1000", plan="free"), 8),
        (await stack.customer("1000", key_quotas=[day], max_parallel_requests=40), 8),
        (await stack.customer("0.02"), 2),
        (await stack.customer("0.01", credit_limit_usd="0.01"), 2),
        (await stack.customer("1000", key_quotas=tight), 1),
        (await stack.customer("1000", plan="free", account_quotas=tight), 1),
    ]


async def run_round(
    stack: Stack,
    name: str,
    customers: Sequence[tuple[Customer, float]],
    faults: Sequence[Fault],
    *,
    concurrency: int,
    seed: int,
    earlier: Sequence[Exchange] = (),
    mix: Mix | None = None,
    most_pause_s: float = 1.5,
    apart_s: float = 0.0,
    granting: bool = True,
    ends_gateways: bool = True,
) -> Round:
    """Strike with `faults` in turn, at least `apart_s` apart; where that is above zero, also not before the journal has
    lost all that it had when the fault was over: what only Redis holds of a killed gateway is lost with Redis.

    `earlier` are exchanges of earlier rounds on this stack, which stay judged. `granting`: the poor get credit
    meanwhile. `ends_gateways`: a fault may end or freeze one."""
    chance = random.Random(seed)  # noqa: S311 - load, not a secret
    stack.load = load = Load(stack, customers, concurrency, seed, mix or Mix())
    began_s = time.monotonic()
    load.start()
    stop_granting = asyncio.Event()
    poor = [customer for customer, _ in customers if customer.granted_nano < POOR_NANO] if granting else []
    grants = asyncio.create_task(_grant(stack, poor, stop_granting))
    struck = []
    try:
        await _recovered(load, began_s)
        for fault in faults:
            await asyncio.sleep(chance.random() * most_pause_s)
            at_s, place = time.monotonic(), len(load.exchanges)
            hit = await fault.strike(stack, chance)
            began_at_s = at_s if hit is None else hit.at_s
            struck.append(Struck(fault, at_s, await _recovered(load, began_at_s, place, hit), hit))
            await asyncio.sleep(max(0.0, at_s + max(fault.settle_s, apart_s) - time.monotonic()))
            if apart_s:
                await wait_until_swept(stack)
        stop_granting.set()
        await grants
    finally:
        grants.cancel()
        await load.stop()
    quiet_s = await _make_quiet(stack, load)
    exchanges = tuple(load.exchanges)
    verdict = await judge(stack, [*earlier, *exchanges], quiet_s, ends_gateways=ends_gateways)
    return Round(name, tuple(struck), verdict, exchanges, time.monotonic() - began_s, tuple(stack.notes))


async def _grant(stack: Stack, poor: Sequence[Customer], stop: asyncio.Event) -> None:
    """Credit for the poor while everything breaks: each grant counts once."""
    for number in itertools.count():
        if not poor or stop.is_set():
            return
        await stack.grant(poor[number % len(poor)], GRANT_USD, f"{secrets.token_hex(4)}-{number}")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), GRANT_EVERY_S)


async def _recovered(load: Load, since_s: float, place: int = 0, hit: Hit | None = None) -> float:
    """Wait for a whole answer to one of the requests from `place` on, of those who were hit; how long that took from
    `since_s`."""
    found: list[float] = []

    def served() -> bool:
        whole = (each for each in load.exchanges[place:] if each.ended is Ended.whole)
        found.extend(each.ended_s for each in whole if hit is None or _was_hit(each, hit))
        return bool(found)

    await until(served, f"an answer after the fault\n{load.stack.log_tail()}", RECOVERY_BOUND_S)
    return min(found) - since_s


def _was_hit(exchange: Exchange, hit: Hit) -> bool:
    return exchange.sent_s >= hit.at_s and exchange.customer in hit.customers


async def _make_quiet(stack: Stack, load: Load) -> float:
    """Wait until what is left of dead gateways is swept, then load every account into Redis's current life."""
    began_s = time.monotonic()
    await wait_until_quiet(stack)
    chance = random.Random(0)  # noqa: S311 - load, not a secret
    for customer in stack.customers:

        async def answered(customer: Customer = customer) -> bool:
            exchange = await load.ask(customer, chance)
            return exchange.ended is Ended.whole or exchange.status in (402, 429)

        await until(answered, f"{customer.account_id} is served\n{stack.log_tail()}")
    await wait_until_quiet(stack)
    return time.monotonic() - began_s
