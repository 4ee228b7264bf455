"""The long version: `python -m tests.chaos [WHAT] [--times N] [--only REGEX] [--concurrency N] [--seed N]`.

Prints the table and ends with 1 when anything in it that must be zero is not.
"""

import argparse
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from tests.chaos.background import background
from tests.chaos.beside import ROWS, run_beside
from tests.chaos.clients import Mix
from tests.chaos.clocks import OF_CLOCKS, compiler, with_clocks
from tests.chaos.cluster import OF_CLUSTER
from tests.chaos.crowds import CROWD, CROWD_OF_FEW, DEFAULTS_OF_FEW
from tests.chaos.disk import OPTIONS, full, small_disk
from tests.chaos.faults import DEFAULTS_OF_FAILING_PROVIDER, FAILING_PROVIDER, KILLS, OTHERS, Fault
from tests.chaos.harness import Customer, Stack, running
from tests.chaos.misuse import DEFAULTS_OF_SLOW_READERS, HOSTILE, SLOW_READERS
from tests.chaos.payments import payments
from tests.chaos.report import by_fault, table
from tests.chaos.run import Round, make_customers, run_round
from tests.chaos.soak import soak
from tests.chaos.stores import (
    HOT,
    LOCK_TIMEOUT,
    LOCKED_ROW,
    LOST_JOURNAL,
    RESTORED,
    SLOW_COMMITS,
    STORM,
    heat,
    redis_held_back,
)
from tests.chaos.twice import TWICE, WITH_SPOOLS

# In the round of all kinds each comes an eighth as often.
MIXED_SHARE = 8
# The least between its faults. A gateway lost and Redis emptied before the gateway's debits and holds were swept are
# two faults at once: the next one also waits until they were (`wait_until_swept`).
APART_S = 8.0
SOAK_MINUTES = 10
MANY_LONG = Mix(longs=0.15, long_ms=12_000)


@dataclass(frozen=True, slots=True)
class Planned:
    """A round to come, and the stack that it needs: `postgres_folder` is where Postgres's data lies, if not with the
    rest, `on_cluster` whether its Redis is a cluster, `around_servers` is what its servers start in; `heat` adds
    customers, `crowd` is how many times as many clients there are. `granting`: the poor get credit meanwhile.
    `ends_gateways`: a fault may end or freeze one. `spools`: workers keep a second copy of debits on disk.
    `spare`: the provider has two keys, its model a fallback."""

    name: str
    faults: Sequence[Fault]
    postgres_folder: Path | None = None
    postgres_options: Mapping[str, str] | None = None
    defaults: Mapping[str, Any] | None = None
    apart_s: float = 0.0
    on_cluster: bool = False
    around_servers: Callable[[Path], AbstractContextManager[None]] | None = None
    granting: bool = True
    ends_gateways: bool = True
    spools: bool = False
    spare: bool = False
    mix: Mix | None = None
    crowd: int = 1
    heat: Callable[[Stack], Awaitable[list[tuple[Customer, float]]]] | None = None


# Rounds that need a stack of their own, with one fault each.
OF_STORES = (
    Planned(SLOW_READERS.name, (SLOW_READERS,), defaults=DEFAULTS_OF_SLOW_READERS, ends_gateways=False),
    Planned(HOSTILE.name, (HOSTILE,), ends_gateways=False),
    Planned(CROWD.name, (CROWD,), ends_gateways=False),
    Planned(CROWD_OF_FEW.name, (CROWD_OF_FEW,), defaults=DEFAULTS_OF_FEW, ends_gateways=False),
    Planned(LOST_JOURNAL.name, (LOST_JOURNAL,), ends_gateways=False),
    Planned(STORM.name, (STORM,), postgres_options=LOCK_TIMEOUT, ends_gateways=False),
    Planned(LOCKED_ROW.name, (LOCKED_ROW,), ends_gateways=False),
    Planned(
        HOT.name,
        (HOT,),
        postgres_options=SLOW_COMMITS,
        around_servers=redis_held_back,
        ends_gateways=False,
        mix=Mix(longs=1.0),
        crowd=2,
        heat=heat,
    ),
    *(Planned(fault.name, (fault,), granting=False, ends_gateways=False) for fault in RESTORED),
    *(Planned(fault.name, (fault,)) for fault in TWICE),
    Planned(WITH_SPOOLS.name, (WITH_SPOOLS,), spools=True),
    Planned(
        FAILING_PROVIDER.name,
        (FAILING_PROVIDER,),
        defaults=DEFAULTS_OF_FAILING_PROVIDER,
        ends_gateways=False,
        spare=True,
        mix=Mix(longs=0.0),
    ),
)


async def chaos(planned: Sequence[Planned], *, concurrency: int, seed: int, keep: bool) -> bool:
    """Run every round on a stack of its own; whether everything that must be zero is."""
    rounds: list[Round] = []
    broken: list[str] = []
    for number, each in enumerate(planned):
        try:
            made = await one_round(each, concurrency=concurrency, seed=seed + number, keep=keep)
        except AssertionError as error:  # the harness waited in vain: for this round there is no verdict
            print(f"\n{each.name}: FAILED with seed {seed + number}: {error}", flush=True)
            broken.append(each.name)
            continue
        rounds.append(made)
        print(f"\n{by_fault(made)}\n[{made.seconds:.0f} s, quiet after {made.verdict.quiet_s:.1f} s]", flush=True)
        if not made.verdict.ok:
            print(f"FAILED with seed {seed + number}:", *made.verdict.details, sep="\n    ", flush=True)
    print("\n" + table(rounds), *(f"{name}: it did not come back" for name in broken), sep="\n")
    return not broken and all(made.verdict.ok for made in rounds)


async def one_round(each: Planned, *, concurrency: int, seed: int, keep: bool) -> Round:
    """A round on a stack of its own. Raises `AssertionError` where what was waited for did not come."""
    async with running(
        keep=keep,
        postgres_folder=each.postgres_folder,
        postgres_options=each.postgres_options,
        defaults=each.defaults,
        on_cluster=each.on_cluster,
        around_servers=each.around_servers,
        spools=each.spools,
        spare=each.spare,
    ) as stack:
        customers = await make_customers(stack)
        if each.heat is not None:
            customers += await each.heat(stack)
        return await run_round(
            stack,
            each.name,
            customers,
            each.faults,
            concurrency=concurrency * each.crowd,
            seed=seed,
            mix=each.mix,
            apart_s=each.apart_s,
            granting=each.granting,
            ends_gateways=each.ends_gateways,
        )


def rounds_of(times: int, only: str, seed: int, disk: Path | str) -> list[Planned]:
    """A round of each kind of fault, and one in random order of all that one server of Redis can suffer."""
    faults = [fault for fault in (*KILLS, *OTHERS) if re.search(only, fault.name)]
    planned = [Planned(fault.name, [fault] * times) for fault in faults]
    if isinstance(disk, str):
        print(f"not run: disk full under Postgres: {disk}")
    elif re.search(only, full(disk).name):
        planned.append(Planned(full(disk).name, [full(disk)] * times, disk, OPTIONS))
    of_cluster = [fault for fault in OF_CLUSTER if re.search(only, fault.name)]
    planned += [Planned(fault.name, [fault] * times, on_cluster=True) for fault in of_cluster]
    planned += [replace(each, faults=(*each.faults,) * times) for each in OF_STORES if re.search(only, each.name)]
    of_clocks = [fault for fault in OF_CLOCKS if re.search(only, fault.name)]
    if of_clocks and compiler() is None:
        print("not run: servers' clocks ahead and back: there is no C compiler here, or this is no Linux")
    else:
        planned += [
            Planned(fault.name, [fault] * times, around_servers=with_clocks, mix=MANY_LONG, ends_gateways=False)
            for fault in of_clocks
        ]
    if len(faults) > 1:
        mixed = faults * max(1, times // MIXED_SHARE)
        random.Random(seed).shuffle(mixed)  # noqa: S311 - an order
        planned.append(Planned("all of them, in random order", mixed, apart_s=APART_S))
    return planned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=("faults", "soak", "background", "payments", *ROWS), default="faults"
    )
    parser.add_argument("--times", type=int, default=30, help="faults of each kind")
    parser.add_argument("--only", default="", help="kinds whose name matches this regular expression")
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--minutes", type=int, default=SOAK_MINUTES, help="of the soak")
    parser.add_argument("--report", type=Path, help="a file for what the soak has found, as JSON")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and data")
    given = parser.parse_args()
    if given.what == "soak":
        work = soak(minutes=given.minutes, concurrency=given.concurrency, seed=given.seed, report=given.report)
        return 0 if uvloop.run(work) else 1
    print(f"seed {given.seed}, {given.concurrency} clients", flush=True)
    if given.what == "background":
        return 0 if uvloop.run(background(times=given.times, seed=given.seed, keep=given.keep)) else 1
    if given.what == "payments":
        return 0 if uvloop.run(payments(times=given.times, seed=given.seed, keep=given.keep)) else 1
    if given.what in ROWS:
        return 0 if uvloop.run(run_beside(given.what, times=given.times, seed=given.seed, keep=given.keep)) else 1
    beside = [what for what, (name, _) in ROWS.items() if re.search(given.only, name)]
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk())
        planned = rounds_of(given.times, given.only, given.seed, disk)
        rounds = chaos(planned, concurrency=given.concurrency, seed=given.seed, keep=given.keep)
        done = [uvloop.run(rounds)] if planned else []
    for what in beside:
        done.append(uvloop.run(run_beside(what, times=given.times, seed=given.seed, keep=given.keep)))
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
