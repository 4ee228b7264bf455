"""The table of a run, and its two files: latest.json has every sample, latest.md what a reader wants to know."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.figures import Spread, ratios
from benchmarks.suite import BARE, DIRECT, LARGE, METERGATE, SATURATION, STREAMS, Results, Sample

BAR: Final = 1.4
"""What Metergate with everything on may cost of a bare pass-through, in CPU a request."""
QUIET: Final = 0.95
"""The share of its core that a pass-through gets at saturation on a machine that does nothing else."""

Samples = dict[str, list[Sample]]


def markdown(results: Results, machine: dict[str, object]) -> str:
    """Everything that a reader wants to know, as Markdown that also reads well in a terminal."""
    parts = [f"# Metergate beside a bare aiohttp pass-through ({results.mode.name} run)", "", *_verdict(results), ""]
    for phase, samples in results.phases.items():
        if phase == SATURATION:
            parts += _saturation(samples, results)
        elif phase == STREAMS:
            parts += _streams(samples)
        elif phase == LARGE:
            parts += _large(samples)
        elif phase.endswith("/s"):
            parts += _paced(phase, samples)
    parts += _memory(results) + _check(results) + _machine(machine)
    return "\n".join(parts)


def write(results: Results, machine: dict[str, object], folder: Path) -> None:
    """latest.json and latest.md in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"machine": machine, "bar": BAR, "ratios_to_bare": summary(results), **asdict(results)}
    (folder / "latest.json").write_text(json.dumps(_rounded(said), indent=1) + "\n")
    (folder / "latest.md").write_text(markdown(results, machine))


def summary(results: Results) -> dict[str, dict[str, float]]:
    """The median ratio to bare of each subject, by phase."""
    return {
        phase: {name: ratio(samples, name).median for name in samples if name not in (DIRECT, BARE)}
        for phase, samples in results.phases.items()
        if BARE in samples
    }


def ratio(samples: Samples, name: str, figure: str = "cpu_us") -> Spread:
    """A subject's figure over bare's, round by round."""
    return Spread.of(ratios(_all(samples[name], figure), _all(samples[BARE], figure)))


def _verdict(results: Results) -> list[str]:
    lines = ["CPU of a request, Metergate with six windows on key and account, of bare's:", ""]
    for phase in (SATURATION, "100/s"):
        if phase in results.phases:
            found = ratio(results.phases[phase], METERGATE)
            judged = "within" if found.median <= BAR else "above"
            lines.append(
                f"- {phase}: **{found.median:.2f}** (rounds {found.least:.2f} to {found.most:.2f}), "
                f"{judged} the bar of {BAR:g}"
            )
    bare = results.phases.get(SATURATION, {}).get(BARE, [])
    had = Spread.of(_all(bare, "utilisation")).median if bare else 1.0
    if had < QUIET:
        lines += ["", f"The machine was busy: bare got {had:.0%} of its core at saturation. Trust ratios at most."]
    return lines


def _saturation(samples: Samples, results: Results) -> list[str]:
    rows = []
    for name, rounds in samples.items():
        spread = ratio(samples, name)
        rows.append(
            (
                name,
                _median(rounds, "cpu_us", 0),
                f"{spread.median:.2f}",
                f"{spread.least:.2f}-{spread.most:.2f}",
                _median(rounds, "per_s", 0),
                _median(rounds, "redis_us", 0),
                _median(rounds, "postgres_us", 0),
                f"{Spread.of(_all(rounds, 'utilisation')).median:.0%}",
            )
        )
    head = ("", "CPU us", "of bare", "rounds", "requests/s", "Redis us", "Postgres us", "of its core")
    direct = results.phases.get(f"{SATURATION}, no proxy", {}).get(DIRECT)
    text = f"{results.mode.connections} connections in a closed loop."
    if direct:
        text += f" The generator without a proxy: {_median(direct, 'per_s', 0)} requests/s."
    return ["## Saturation", "", text, "", *_table(head, rows), ""]


def _paced(phase: str, samples: Samples) -> list[str]:
    rows = []
    for name, rounds in samples.items():
        is_direct = name == DIRECT
        spread = ratio(samples, name)
        rows.append(
            (
                name,
                "" if is_direct else _median(rounds, "cpu_us", 0),
                "" if is_direct else f"{spread.median:.2f}",
                "" if is_direct else f"{spread.least:.2f}-{spread.most:.2f}",
                _median(rounds, "p50_ms", 2),
                _median(rounds, "p99_ms", 2),
                "" if is_direct else _added(samples, name, "p50_ms"),
                "" if is_direct else _added(samples, name, "p99_ms"),
            )
        )
    head = ("", "CPU us", "of bare", "rounds", "p50 ms", "p99 ms", "added p50", "added p99")
    return [f"## {phase.removesuffix('/s')} requests/s", "", *_table(head, rows), ""]


def _streams(samples: Samples) -> list[str]:
    rows = []
    for name, rounds in samples.items():
        is_direct = name == DIRECT
        rows.append(
            (
                name,
                "" if is_direct else _median(rounds, "cpu_us", 0),
                "" if is_direct else f"{ratio(samples, name).median:.2f}",
                _median(rounds, "ttfb_p50_ms", 2),
                _median(rounds, "ttfb_p99_ms", 2),
            )
        )
    head = ("", "CPU us a chunk", "of bare", "first byte p50 ms", "p99 ms")
    text = "Streams of 50 chunks, one every 20 ms, 20 streams at once; a chunk bears its share of the request."
    return ["## Streams", "", text, "", *_table(head, rows), ""]


def _large(samples: Samples) -> list[str]:
    rows = []
    for name, rounds in samples.items():
        is_direct = name == DIRECT
        added = "" if is_direct else _added(samples, name, "max_ms")
        longest = f"{Spread.of(_all(rounds, 'max_ms')).most:.2f}"
        rows.append((name, _median(rounds, "p50_ms", 2), _median(rounds, "p99_ms", 2), longest, added))
    head = ("", "p50 ms", "p99 ms", "longest ms", "longest, added")
    text = "Latency of 100 small requests/s while two prompts of 1 MB a second pass beside them."
    return ["## Beside large prompts", "", text, "", *_table(head, rows), ""]


def _memory(results: Results) -> list[str]:
    said = ", ".join(f"{name} {bytes_ / 2**20:.0f} MiB" for name, bytes_ in results.resident_bytes.items())
    return ["## Resident memory at the end", "", said, ""]


def _check(results: Results) -> list[str]:
    metered = sum(ledger.events for ledger in results.ledgers)
    return [
        "## Counted up",
        "",
        f"{results.answers} answers, no error, every answer byte for byte the upstream's; {metered} of them metered, "
        f"and the ledger has {metered} debits at the right price, every balance the sum of its transfers.",
        "",
    ]


def _machine(machine: dict[str, object]) -> list[str]:
    lines = ["## Machine", ""]
    for name, value in machine.items():
        said = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
        lines.append(f"- {name.replace('_', ' ')}: {said}")
    return [*lines, ""]


def _all(rounds: Sequence[Sample], figure: str) -> list[float]:
    return [sample[figure] for sample in rounds]


def _median(rounds: Sequence[Sample], figure: str, decimals: int) -> str:
    return f"{Spread.of(_all(rounds, figure)).median:.{decimals}f}"


def _added(samples: Samples, name: str, figure: str) -> str:
    """Above the direct way, round by round; the median, in ms."""
    pairs = zip(_all(samples[name], figure), _all(samples[DIRECT], figure), strict=True)
    return f"{Spread.of([value - base for value, base in pairs]).median:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.ljust(widths[0]) if not at else cell.rjust(widths[at]) for at, cell in enumerate(cells))
        return "| " + " | ".join((first, *others)) + " |"

    rule = (
        "|"
        + "|".join("-" * (width + 2) if not at else "-" * (width + 1) + ":" for at, width in enumerate(widths))
        + "|"
    )
    return [line(head), rule, *map(line, rows)]


def _rounded(value: object) -> object:
    """The same with floats that have four significant digits after the point at most."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
