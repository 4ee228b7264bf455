"""What a load needs, in cores and disk, from the figures of the last runs: `... capacity`. Pure, but for reading files.

A constant is the median of its rounds. Cores are those that are busy at the peak, divided by how busy one is to be:
what is left is for a burst within a second and for a node that is lost.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from benchmarks.subjects import Unsound
from benchmarks.tables import table

LOADS: Final = (1_000, 3_000, 10_000, 30_000, 100_000)
BUSY: Final = 0.6
DAY_S: Final = 86_400
STREAM_CHUNKS: Final = 50
SUBJECT: Final = "metergate, 6 windows"


@dataclass(frozen=True, slots=True)
class Constants:
    """CPU in us a request, bytes a row. `postgres_us` are of a ledger that fits into memory, `postgres_large_us` of the
    largest one that was measured, of `rows`."""

    gateway_us: float
    stream_us: float
    redis_us: float
    postgres_us: float
    postgres_large_us: float
    rows: int
    row_bytes: float
    pair_bytes: float
    waiting_bytes: float

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read latest.json and growth.json. Raises `Unsound` where a phase that is needed was not measured."""
        try:
            phases = json.loads((folder / "latest.json").read_text())["phases"]
            grown = json.loads((folder / "growth.json").read_text())["growth"]
            saturated, ledger = phases["saturation"][SUBJECT], grown["ledger"][-1]
            return cls(
                gateway_us=_median(saturated, "cpu_us"),
                stream_us=_median(phases["streams"][SUBJECT], "cpu_us") * STREAM_CHUNKS,
                redis_us=_median(saturated, "redis_us"),
                postgres_us=_median(phases["ledger"]["ledger"], "postgres_us"),
                postgres_large_us=ledger["postgres_us"],
                rows=ledger["size"],
                row_bytes=ledger["bytes_a_row"],
                pair_bytes=grown["accounts"][-1]["both_bytes"],
                waiting_bytes=grown["waiting"][-1]["waiting_bytes"],
            )
        except (OSError, LookupError) as error:
            raise Unsound(f"a run is missing ({error}): make bench, and make bench ARGS='growth --full'") from error


@dataclass(frozen=True, slots=True)
class Needs:
    """What a load of whole answers needs. Cores are busy ones; of Postgres from a small ledger to a large one."""

    per_s: int
    gateway: float
    redis: float
    postgres: tuple[float, float]
    bytes_per_s: float

    @classmethod
    def of(cls, per_s: int, constants: Constants) -> Self:
        """Multiply."""
        share = per_s / 1e6
        postgres = share * constants.postgres_us, share * constants.postgres_large_us
        row_bytes = per_s * constants.row_bytes
        return cls(per_s, share * constants.gateway_us, share * constants.redis_us, postgres, row_bytes)

    @property
    def workers(self) -> int:
        """Each has a core."""
        return ceil(self.gateway / BUSY)

    @property
    def masters(self) -> int:
        """Of Redis, each with one thread that serves."""
        return ceil(self.redis / BUSY)

    @property
    def cores(self) -> int:
        """To be had altogether."""
        return self.workers + self.masters + ceil(self.postgres[1] / BUSY)


def text(folder: Path) -> str:
    """Both tables, in Markdown."""
    constants = Constants.of(folder)
    return "\n".join([*_constants(constants), "", *_loads([Needs.of(per_s, constants) for per_s in LOADS])])


def _constants(constants: Constants) -> list[str]:
    rows = (
        ("gateway, a whole answer", f"{constants.gateway_us:,.0f} us", "saturation"),
        (f"gateway, a stream of {STREAM_CHUNKS} chunks", f"{constants.stream_us / 1000:,.1f} ms", "streams"),
        ("Redis, six windows on account and key", f"{constants.redis_us:,.0f} us", "saturation"),
        ("Postgres, a debit written and rolled up", f"{constants.postgres_us:,.0f} us", "ledger"),
        (f"the same in {constants.rows:,} rows", f"{constants.postgres_large_us:,.0f} us", "growth, ledger"),
        ("a debit in the ledger, with indexes", f"{constants.row_bytes:,.0f} bytes", "growth, ledger"),
        ("an account and its key in Redis", f"{constants.pair_bytes:,.0f} bytes", "growth, accounts"),
        ("a debit that waits for Postgres", f"{constants.waiting_bytes:,.0f} bytes", "growth, waiting"),
    )
    return table(("constant", "figure", "phase"), rows)


def _loads(loads: Sequence[Needs]) -> list[str]:
    head = ("requests/s", "gateway", "workers", "Redis", "masters", "Postgres", "MB/s", "GB a day", "cores to have")
    rows = [
        (
            f"{each.per_s:,}",
            f"{each.gateway:,.1f}",
            str(each.workers),
            f"{each.redis:,.2f}",
            str(each.masters),
            f"{each.postgres[0]:,.1f}-{each.postgres[1]:,.1f}",
            f"{each.bytes_per_s / 1e6:,.0f}",
            f"{each.bytes_per_s * DAY_S / 1e9:,.0f}",
            str(each.cores),
        )
        for each in loads
    ]
    return table(head, rows)


def _median(rounds: Sequence[Mapping[str, Any]], name: str) -> float:
    return median(float(each[name]) for each in rounds)
