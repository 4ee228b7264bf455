"""Rounds that are judged by counts of their own, beside those of requests: each a row of `make chaos`.

`python -m tests.chaos batches|exports|handover|migrations` runs one of them alone.
"""

from collections import Counter
from typing import Protocol

from tests.chaos.batches import batches
from tests.chaos.exports import exports
from tests.chaos.handover import handover
from tests.chaos.migrations import migrations


class Beside(Protocol):
    """A round: strikes `times` times, and counts what became of everything. What begins with WRONG must not be."""

    async def __call__(self, *, times: int, seed: int, keep: bool) -> Counter[str]: ...


ROWS = {
    "batches": ("batches with bad bytes", batches),
    "exports": ("exports under kills", exports),
    "handover": ("all workers replaced under load", handover),
    "migrations": ("a migration killed on a filled ledger", migrations),
}


async def run_beside(what: str, *, times: int, seed: int, keep: bool) -> bool:
    """Run one and print its row; whether everything that must be zero is."""
    name, run = ROWS[what]
    print(f"\n{name}, seed {seed}", flush=True)
    try:
        found = await run(times=times, seed=seed, keep=keep)
    except AssertionError as error:  # what was waited for did not come: there is no verdict
        print(f"{name}: FAILED with seed {seed}: {error}", flush=True)
        return False
    wrong = [each for each in found if each.startswith("WRONG")]
    counted = ", ".join(f"{count} {each}" for each, count in sorted(found.items()) if each not in wrong)
    print(f"| {name} | {times} | {counted} | wrong: {len(wrong)} |", *wrong[:10], sep="\n    ", flush=True)
    return not wrong
