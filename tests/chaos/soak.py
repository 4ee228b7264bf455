"""Traffic without faults for minutes or hours: nothing that lives on may grow, and at rest nothing is held.

Each minute has a sample of what must be flat:

    memory       resident memory of the workers together, the mean of the minute
    descriptors  open files of the supervisor and its workers
    redis        bytes that Redis has taken, and its keys: three a customer (account, key, refusals) and seven of all
    postgres     bytes of the tables that don't have a row for each request: dead rows that nobody clears make them grow
    row          bytes of a request in the tables that do

A line is laid through the samples from the second minute on, by least squares; over the whole time it may rise by
`LIMIT` of their mean. The report is Markdown, or JSON with `--json`.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import msgspec
import psutil

from billing.database.connection import Database
from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import AccountState
from tests.chaos.clients import Load
from tests.chaos.harness import Stack, running
from tests.chaos.ledger_check import Verdict, judge
from tests.chaos.quiet import wait_until_quiet
from tests.chaos.run import make_customers

SAMPLE_S = 2.0
MINUTE_S = 60.0
# Of the mean, in the whole time: 5 % is below what a leak of a kilobyte for a thousand requests would add in an hour.
LIMIT = 0.05
CUSTOMER_KEYS = 3
# meta, journal, installed, joined of the partition; attempts, refusals, targets.
FIXED_KEYS = 7
# Those of a request each, whose size follows from how many there were; partitions go by the name of their table.
GROWING: Final = frozenset({"transfers", "usage_events"})
_SIZES = """SELECT coalesce(inhparent::regclass::text, relname) AS name,
        sum(pg_total_relation_size(pg_class.oid)) AS bytes
    FROM pg_class LEFT JOIN pg_inherits ON inhrelid = pg_class.oid
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' GROUP BY 1"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One minute."""

    memory_bytes: float
    descriptors: float
    redis_bytes: float
    redis_keys: float
    postgres_bytes: float
    row_bytes: float


@dataclass(frozen=True, slots=True)
class Slope:
    """How one value went. `growth` is what its line rises in the whole time, as a share of its mean."""

    name: str
    first: float
    last: float
    growth: float

    @property
    def flat(self) -> bool:
        return self.growth <= LIMIT

    @property
    def verdict(self) -> str:
        return "flat" if self.flat else "GROWS"


@dataclass(frozen=True, slots=True)
class Report:
    """What a soak has found."""

    minutes: int
    requests: int
    whole: int
    debits: int
    slopes: tuple[Slope, ...]
    most_keys: int
    keys_allowed: int
    left_in_journal: int
    held_nano: int
    wrong: tuple[str, ...]

    @property
    def ok(self) -> bool:
        steady = all(each.flat for each in self.slopes) and self.most_keys <= self.keys_allowed
        return steady and not (self.left_in_journal or self.held_nano or self.wrong)

    def lines(self) -> list[str]:
        """The report as Markdown."""
        rows = [
            f"| {each.name} | {each.first:,.0f} | {each.last:,.0f} | {each.growth:+.1%} | {each.verdict} |"
            for each in self.slopes
        ]
        return [
            f"{self.minutes} minutes, {self.requests} requests, {self.whole} whole answers, {self.debits} debits",
            "",
            "| what | first | last | line over the time | |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"At rest: {self.held_nano} nano-USD held, {self.left_in_journal} entries in the journal; "
            f"at most {self.most_keys} keys of {self.keys_allowed}.",
            *self.wrong,
            "Everything is flat." if self.ok else "NOT everything is flat.",
        ]


def slope(name: str, values: Sequence[float]) -> Slope:
    """Lay a line through values of equal distance, by least squares."""
    count, mean = len(values), sum(values) / len(values)
    middle = (count - 1) / 2
    spread = sum((place - middle) ** 2 for place in range(count))
    rise = sum((place - middle) * (value - mean) for place, value in enumerate(values))
    growth = rise / spread * (count - 1) / mean if spread and mean else 0.0
    return Slope(name, values[0], values[-1], growth)


async def soak(*, minutes: int, concurrency: int, seed: int, report: Path | None = None) -> bool:
    """Run and print; whether everything held. `report` gets what was found, as JSON."""
    async with running() as stack:
        customers = await make_customers(stack)
        load = Load(stack, customers, concurrency, seed)
        load.start()
        samples: list[Sample] = []
        for minute in range(minutes):
            samples.append(await sampled(stack, load, MINUTE_S))
            print(f"minute {minute + 1}: {len(load.exchanges)} requests, {samples[-1]}", flush=True)
        await load.stop()
        left = await wait_until_quiet(stack)
        for customer, _ in customers:
            await load.ask(customer, random.Random(0))  # noqa: S311 - load, not a secret
        left += await wait_until_quiet(stack)
        verdict = await judge(stack, load.exchanges, 0.0)
        held_nano = await _held_nano(stack)
    found = reported(
        samples, verdict, keys_allowed=CUSTOMER_KEYS * len(customers) + FIXED_KEYS, left=left, held_nano=held_nano
    )
    print("", *found.lines(), sep="\n", flush=True)
    if report is not None:
        await asyncio.to_thread(report.write_bytes, msgspec.json.format(msgspec.json.encode(found)))
    return found.ok


def reported(samples: Sequence[Sample], verdict: Verdict, *, keys_allowed: int, left: int, held_nano: int) -> Report:
    """Judge the samples from the second on: in the first minute caches fill."""
    steady = samples[1:] if len(samples) > 2 else samples
    named = {each.name: [getattr(sample, each.name) for sample in steady] for each in fields(Sample)}
    slopes = tuple(slope(name, values) for name, values in named.items() if name != "redis_keys")
    return Report(
        minutes=len(samples),
        requests=verdict.requests,
        whole=verdict.whole,
        debits=verdict.debits,
        slopes=slopes,
        most_keys=int(max(sample.redis_keys for sample in samples)),
        keys_allowed=keys_allowed,
        left_in_journal=left,
        held_nano=held_nano,
        wrong=() if verdict.ok else tuple(verdict.details),
    )


async def sampled(stack: Stack, load: Load, seconds: float) -> Sample:
    """What is there on the average of these seconds, and in the stores at their end."""
    memory, descriptors, ends_s = list[int](), list[int](), time.monotonic() + seconds
    while time.monotonic() < ends_s:
        await asyncio.sleep(min(SAMPLE_S, seconds))
        with suppress(psutil.NoSuchProcess):
            processes = [psutil.Process(pid) for pid in stack.gateway_pids()]
            descriptors.append(sum(each.num_fds() for each in processes))
            memory.append(sum(each.memory_info().rss for each in processes[1:]))
    redis_bytes, keys = await _of_redis(stack)
    still_bytes, row_bytes = await _of_postgres(stack)
    return Sample(
        sum(memory) / len(memory), sum(descriptors) / len(descriptors), redis_bytes, keys, still_bytes, row_bytes
    )


async def _of_redis(stack: Stack) -> tuple[float, float]:
    link = RedisClient(stack.endpoints.redis_url)
    try:
        return float((await link.info("memory"))["used_memory"]), float(await link.command("DBSIZE"))
    finally:
        await link.close()


async def _of_postgres(stack: Stack) -> tuple[float, float]:
    database = Database(stack.endpoints.database_url, size=1)
    try:
        sizes = {row["name"]: int(row["bytes"]) for row in await database.rows(_SIZES)}
        rows = await database.value("SELECT count(*) FROM usage_events")
    finally:
        await database.close()
    growing = sum(size for name, size in sizes.items() if name in GROWING)
    return float(sum(sizes.values()) - growing), growing / max(1, rows)


async def _held_nano(stack: Stack) -> int:
    """What Redis holds of all customers; nothing runs."""
    async with stack.runtime() as runtime:
        held = 0
        for customer in stack.customers:
            raw = await runtime.redis_client.command("GET", runtime.engine.keyspace.account(customer.account_id))
            held += AccountState.unpack(raw).held_nano if raw is not None else 0
        return held
