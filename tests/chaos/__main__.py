"""The long version: `python -m tests.chaos [soak] [--times N] [--only REGEX] [--concurrency N] [--seed N]`.

Prints the table and ends with 1 when anything in it that must be zero is not.
"""

import argparse
import random
import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from tests.chaos.cluster import OF_CLUSTER
from tests.chaos.disk import OPTIONS, full, small_disk
from tests.chaos.faults import KILLS, OTHERS, Fault
from tests.chaos.harness import running
from tests.chaos.report import by_fault, table
from tests.chaos.run import Round, make_customers, run_round
from tests.chaos.soak import soak

MIXED_SHARE: Final = 8
"""In the round of all kinds each comes an eighth as often."""
APART_S: Final = 8.0
"""Between its faults: a worker lost and Redis emptied before the worker's debits were swept are two faults at once."""
SOAK_MINUTES: Final = 10
SKIPPED: Final = (
    "not run: Redis's own clock set back, which needs a clock of its own for one process; the scripts take the larger "
    "of TIME and the account's last time, which their tests cover"
)


@dataclass(frozen=True, slots=True)
class Planned:
    """A round to come; `postgres_folder` is where Postgres's data lies, if not with the rest, `on_cluster` whether its
    Redis is a cluster."""

    name: str
    faults: Sequence[Fault]
    postgres_folder: Path | None = None
    apart_s: float = 0.0
    on_cluster: bool = False


async def chaos(planned: Sequence[Planned], *, concurrency: int, seed: int, keep: bool) -> bool:
    """Run every round on a stack of its own; whether everything that must be zero is."""
    rounds: list[Round] = []
    for number, each in enumerate(planned):
        options = None if each.postgres_folder is None else OPTIONS
        async with running(
            keep=keep, postgres_folder=each.postgres_folder, postgres_options=options, on_cluster=each.on_cluster
        ) as stack:
            customers = await make_customers(stack)
            made = await run_round(
                stack,
                each.name,
                customers,
                each.faults,
                concurrency=concurrency,
                seed=seed + number,
                apart_s=each.apart_s,
            )
            rounds.append(made)
        print(f"\n{by_fault(made)}\n[{made.seconds:.0f} s, quiet after {made.verdict.quiet_s:.1f} s]", flush=True)
        if not made.verdict.ok:
            print(f"FAILED with seed {seed + number}:", *made.verdict.details, sep="\n    ", flush=True)
    print("\n" + table(rounds))
    return all(made.verdict.ok for made in rounds)


def rounds_of(times: int, only: str, seed: int, disk: Path | str) -> list[Planned]:
    """A round of each kind of fault, and one in random order of all that one server of Redis can suffer."""
    faults = [fault for fault in (*KILLS, *OTHERS) if re.search(only, fault.name)]
    planned = [Planned(fault.name, [fault] * times) for fault in faults]
    if isinstance(disk, str):
        print(f"not run: disk full under Postgres: {disk}")
    elif re.search(only, full(disk).name):
        planned.append(Planned(full(disk).name, [full(disk)] * times, disk))
    of_cluster = [fault for fault in OF_CLUSTER if re.search(only, fault.name)]
    planned += [Planned(fault.name, [fault] * times, on_cluster=True) for fault in of_cluster]
    if len(faults) > 1:
        mixed = faults * max(1, times // MIXED_SHARE)
        random.Random(seed).shuffle(mixed)  # noqa: S311 - an order
        planned.append(Planned("all of them, in random order", mixed, apart_s=APART_S))
    return planned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("faults", "soak"), default="faults")
    parser.add_argument("--times", type=int, default=30, help="faults of each kind")
    parser.add_argument("--only", default="", help="kinds whose name matches this regular expression")
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--minutes", type=int, default=SOAK_MINUTES, help="of the soak")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and data")
    given = parser.parse_args()
    if given.what == "soak":
        return 0 if uvloop.run(soak(minutes=given.minutes, concurrency=given.concurrency, seed=given.seed)) else 1
    print(f"seed {given.seed}, {given.concurrency} clients; {SKIPPED}", flush=True)
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk())
        planned = rounds_of(given.times, given.only, given.seed, disk)
        work = chaos(planned, concurrency=given.concurrency, seed=given.seed, keep=given.keep)
        return 0 if uvloop.run(work) else 1


if __name__ == "__main__":
    sys.exit(main())
