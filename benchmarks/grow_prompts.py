"""How the cost of a request grows with its prompt: Metergate beside bare, in a closed loop at each size."""

from collections.abc import Sequence
from typing import Final

from benchmarks.figures import Spread, ratios
from benchmarks.machine import TARGET_CORE
from benchmarks.modes import MODES
from benchmarks.seed import Size
from benchmarks.stage import Stage
from benchmarks.subjects import BARE, METERGATE, Report, Results, Sample, Subject
from benchmarks.suite import PARTITIONS
from benchmarks.turns import Turn

CUSTOMERS: Final = Size(8, 8)
CONNECTIONS: Final = 8
MEASURE_S: Final = 1.5
ROUNDS: Final = 3


async def prompts(stage: Stage, sizes: Sequence[int], report: Report) -> list[Sample]:
    """From a short prompt to a long one. Redis and the ledger do not see the prompt: only the gateway does."""
    installation = await stage.install(CUSTOMERS, (6,), partitions=PARTITIONS)
    secrets = installation.secrets[6]
    bare = stage.start(BARE, "benchmarks.bare", "--upstream", stage.upstream_url, core=TARGET_CORE)
    worker = await stage.worker(installation, "metergate")
    turn = Turn(stage, MODES["default"], Results(MODES["default"]))
    samples: list[Sample] = []
    for size in sizes:
        found: dict[str, list[Sample]] = {BARE: [], METERGATE: []}
        for number in range(ROUNDS):
            report(f"prompts: {size:,} bytes, round {number + 1} of {ROUNDS}")
            subjects = [Subject(BARE, bare, secrets), Subject(METERGATE, worker, secrets, installation)]
            for subject in subjects if number % 2 == 0 else reversed(subjects):
                found[subject.name].append(await turn.saturate_with(subject, CONNECTIONS, MEASURE_S, size))
        own, base = [[sample["cpu_us"] for sample in found[name]] for name in (METERGATE, BARE)]
        samples.append(
            {
                "size": size,
                "bare_us": Spread.of(base).median,
                "own_us": Spread.of(own).median,
                "of_bare": Spread.of(ratios(own, base)).median,
                "own_us_a_kb": Spread.of(own).median * 1e3 / size,
                "per_s": Spread.of([sample["per_s"] for sample in found[METERGATE]]).median,
            }
        )
    worker.stop()
    return samples
