"""How cost grows: `make bench ARGS=growth`, one size after the other, on the real engine, ledger and gateway.

    make bench ARGS=growth                                            small sizes, about two minutes
    make bench ARGS="growth --full"                                   every size; hours
    make bench ARGS="growth --grow accounts=10,100000 --grow ledger=1000000"

Sizes rise; each experiment goes on from the size before. At the end of each the ledger is compared with what was done.
"""

import argparse
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.grow_holds import accounts, waiting, windows
from benchmarks.grow_ledger import QUERY_BAR_MS, ledger
from benchmarks.grow_prompts import prompts
from benchmarks.machine import TARGET_CORE, on_core
from benchmarks.reads import reads
from benchmarks.stage import Stage, open_stage
from benchmarks.subjects import Report, Sample
from benchmarks.tables import described, rounded, table

Experiment = Callable[[Stage, Sequence[int], Report], Awaitable[list[Sample]]]
# A figure's name, its heading, its decimals.
Column = tuple[str, str, int]
Sizes = Mapping[str, tuple[int, ...]]
Grown = dict[str, list[Sample]]


@dataclass(frozen=True, slots=True)
class Growth:
    """One way to grow: `small` and `every` size, what to say of it, and its columns."""

    title: str
    text: str
    experiment: Experiment
    small: tuple[int, ...]
    every: tuple[int, ...]
    columns: tuple[Column, ...]


_REQUEST: Final[tuple[Column, ...]] = (
    ("redis_us", "Redis CPU us a request", 0),
    ("own_us", "engine CPU us a request", 0),
)
_STATE: Final[tuple[Column, ...]] = (("account_bytes", "bytes of an account", 0), ("key_bytes", "of a key", 0))

GROWTHS: Final[dict[str, Growth]] = {
    "accounts": Growth(
        "Accounts",
        "One key each, six windows on both, all loaded into Redis; requests go to up to 2,000 of them. Bytes are what "
        "Redis says of each value, then what it allocated for account, key and the record of "
        "both. The first 2,000 accounts of each step are loaded by the gateway's own loader; the others are "
        "given copies of what it wrote.",
        accounts,
        (10, 1_000, 20_000),
        (10, 100, 1_000, 10_000, 100_000, 1_000_000),
        (
            *_REQUEST,
            *_STATE,
            ("both_bytes", "allocated a pair", 0),
            ("loaded_per_s", "loaded/s", 0),
            ("reconcile_s", "reconciled in s", 1),
            ("reconcile_own_us", "engine us an account", 0),
            ("reconcile_postgres_us", "Postgres us", 0),
        ),
    ),
    "windows": Growth(
        "Windows",
        "So many on the account and as many on the key.",
        windows,
        (0, 2, 6, 18),
        (0, 1, 2, 4, 6, 9, 12, 18),
        (*_REQUEST, *_STATE),
    ),
    "ledger": Growth(
        "Ledger",
        f"Rows spread over 60 days, a tenth of them one account's, whose reports are read: the median of 20, in ms. "
        f"The bar is {QUERY_BAR_MS:g} ms. Inserting is measured with 20,000 rows of now in batches of 500, over one "
        "connection.",
        ledger,
        (20_000, 100_000),
        (100_000, 1_000_000, 10_000_000),
        (
            ("rows_per_s", "rows/s", 0),
            ("postgres_us", "Postgres us a row", 0),
            ("bytes_a_row", "bytes a row", 0),
            ("totals_ms", "totals", 1),
            ("key_totals_ms", "of a key", 1),
            ("events_ms", "events", 1),
            ("recent_ms", "events, filtered", 1),
            ("transfers_ms", "transactions", 1),
        ),
    ),
    "reads": Growth(
        "Reads of sums",
        "A ledger of 90 days; the reads are those of an account that has a tenth of its events: 20 keys, 480 "
        f"combinations of dimensions, two tags. The median of 9, in ms; the bar is {QUERY_BAR_MS:g} ms.",
        reads,
        (100_000, 1_000_000),
        (100_000, 1_000_000, 10_000_000),
        (
            ("ever_ms", "ever", 1),
            ("odd_ms", "46 days by model", 1),
            ("odd_tag_ms", "by project, model", 1),
            ("minutes_ms", "720 minutes by model", 1),
            ("hours_ms", "168 hours by model", 1),
            ("hours_half_ms", "in Kolkata", 1),
            ("hours_two_ms", "84 hours by key, model", 1),
            ("days_ms", "31 days by model", 1),
            ("days_ny_ms", "in New York", 1),
            ("days_half_ms", "in Kolkata by user", 1),
            ("days_tag_ms", "in New York by team, model", 1),
            ("events_ms", "events", 1),
            ("rare_ms", "events of which none match", 1),
            ("most_cpu_ms", "most CPU of Postgres", 1),
        ),
    ),
    "prompts": Growth(
        "Prompts",
        "Bytes of prompt; CPU of the gateway's process a request, in a closed loop of 8 connections.",
        prompts,
        (1_000, 37_000, 1_000_000),
        (1_000, 10_000, 37_000, 100_000, 1_000_000, 10_000_000),
        (
            ("bare_us", "bare's CPU us", 0),
            ("own_us", "Metergate's", 0),
            ("of_bare", "of bare", 2),
            ("own_us_a_kb", "us a kB", 2),
            ("per_s", "requests/s", 0),
        ),
    ),
    "waiting": Growth(
        "Debits waiting for Postgres",
        "Settled in Redis, not yet written. At the last size all of them are written, in the outbox's batches.",
        waiting,
        (0, 1_000, 20_000),
        (0, 1_000, 10_000, 100_000, 1_000_000),
        (
            *_REQUEST,
            ("waiting_bytes", "bytes of Redis each", 0),
            ("drain_s", "written in s", 1),
            ("drain_per_s", "rows/s", 0),
        ),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `sizes` reads."""
    known = ", ".join(GROWTHS)
    parser.add_argument(
        "--grow", action="append", default=[], metavar="WHAT[=SIZE,...]", help=f"growth: this alone, of {known}"
    )


def sizes(arguments: argparse.Namespace) -> Sizes:
    """What to grow, and to which sizes, rising. Raises `ValueError` for what can't be grown."""
    found: dict[str, tuple[int, ...]] = {}
    for asked in arguments.grow or GROWTHS:
        name, _, given = asked.partition("=")
        if name not in GROWTHS:
            raise ValueError(f"{name!r} can't be grown: {', '.join(GROWTHS)}")
        growth = GROWTHS[name]
        own = tuple(int(size) for size in given.split(",")) if given else ()
        found[name] = tuple(sorted(own)) or (growth.every if arguments.full else growth.small)
    return found


async def run(wanted: Sizes, report: Report) -> Grown:
    """Every experiment, each on stores of its own. Raises what the stage raises, and `Unsound`."""
    grown: Grown = {}
    for name, chosen in wanted.items():
        async with open_stage() as stage:
            with on_core(TARGET_CORE):
                grown[name] = await GROWTHS[name].experiment(stage, chosen, report)
    return grown


def markdown(grown: Grown, machine: dict[str, object]) -> str:
    """A table of each experiment."""
    parts = ["# How Metergate's cost grows", ""]
    for name, samples in grown.items():
        growth = GROWTHS[name]
        rows = [
            (f"{sample['size']:,.0f}", *(_cell(sample, figure, decimals) for figure, _, decimals in growth.columns))
            for sample in samples
        ]
        head = ("", *(heading for _, heading, _ in growth.columns))
        parts += [f"## {growth.title}", "", growth.text, "", *table(head, rows, left=0), ""]
    return "\n".join([*parts, *described(machine)])


def write(grown: Grown, machine: dict[str, object], folder: Path) -> str:
    """growth.json and growth.md in this folder; the latter is answered."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "growth.json"
    text = markdown(grown, machine)
    file.write_text(json.dumps(rounded({"machine": machine, "growth": grown}), indent=1) + "\n")
    (folder / "growth.md").write_text(text)
    return text


def _cell(sample: Sample, figure: str, decimals: int) -> str:
    return f"{sample[figure]:,.{decimals}f}" if figure in sample else ""
