"""What is counted: the metrics by name, and a worker's counts as one value that can be written, read and added up.

Money is counted in `int`.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import msgspec

Outcome = Literal["settled", "voided", "ledger_way", "lost"]
Labels = tuple[str, ...]

LABEL_SETS_LIMIT: Final = 1_000
"""Label sets of one metric; what comes beyond is counted under OTHER."""
OTHER: Final = "other"
TOKEN_CLASSES: Final = ("input", "cached_input", "output", "reasoning")
OUTCOMES: Final[tuple[Outcome, ...]] = ("settled", "voided", "ledger_way", "lost")
LOOPS: Final = (
    *("lease", "outbox", "roller", "relay", "sweep", "subscribe"),  # of billing.holds.engine
    *("housekeeping", "metrics", "reconcile"),  # of gateway.app
)

# Upper bounds of buckets, in seconds: of our own steps, and of what a provider takes (upstream_timeout_s is 600).
STEP_BOUNDS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
PROVIDER_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Counter(NamedTuple):
    help: str
    labels: Labels = ()


class Histogram(NamedTuple):
    help: str
    bounds: tuple[float, ...]
    labels: Labels = ()


COUNTERS: Final = {
    "requests": Counter("Requests answered.", ("endpoint", "provider", "status", "stream")),
    "refusals": Counter("Requests refused by the gateway itself.", ("code",)),
    "upstream_refusals": Counter("Requests refused by a provider, by its status.", ("provider", "status")),
    "tokens": Counter("Tokens metered; input includes cached_input, output includes reasoning.", ("class", "provider")),
    "cost_nano_usd": Counter("What providers charge, in nano-USD.", ("provider",)),
    "charged_nano_usd": Counter("What accounts were charged, in nano-USD.", ("provider",)),
    "hold_exceeded": Counter("Requests whose usage was above their hold."),
    "implausible_usage": Counter("Usage that was not believed; the hold was charged instead."),
    "settlements": Counter("Holds that ended, by how.", ("outcome", "estimated")),
    "loop_failures": Counter("Loops beside the requests that failed and began anew.", ("loop",)),
}
HISTOGRAMS: Final = {
    "hold_latency_seconds": Histogram("Time to take a hold.", STEP_BOUNDS),
    "settle_latency_seconds": Histogram("Time to settle or void a hold.", STEP_BOUNDS),
    "upstream_latency_seconds": Histogram("Time from sending to the answer's head.", PROVIDER_BOUNDS, ("provider",)),
    "time_to_first_byte_seconds": Histogram(
        "Time from a stream's request to its first byte from the provider.", PROVIDER_BOUNDS, ("provider",)
    ),
}


class Snapshot(msgspec.Struct):
    """Counts of one worker, or summed ones, by metric and labels. A histogram's values: one count per bucket, the count
    above the last bound, and the sum in seconds. `names` are the workers that are in the totals of the dead.

    Raises ValueError for metrics or buckets other than this version's.
    """

    counters: dict[str, dict[Labels, int]] = msgspec.field(default_factory=dict)
    histograms: dict[str, dict[Labels, list[float]]] = msgspec.field(default_factory=dict)
    gauges: dict[str, float] = msgspec.field(default_factory=dict)
    names: list[str] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        if not (self.counters.keys() <= COUNTERS.keys() and self.histograms.keys() <= HISTOGRAMS.keys()):
            raise ValueError("unknown metrics")
        for name, series in self.histograms.items():
            if any(len(values) != len(HISTOGRAMS[name].bounds) + 2 for values in series.values()):
                raise ValueError(f"unknown buckets of {name}")

    def add(self, part: "Snapshot") -> None:
        """Add counters and histograms of another; gauges are not for adding up without their `combine`."""
        for name, counts in part.counters.items():
            into = self.counters.setdefault(name, {})
            for labels, count in counts.items():
                key = bounded(into, labels)
                into[key] = into.get(key, 0) + count
        for name, observed in part.histograms.items():
            cells = self.histograms.setdefault(name, {})
            for labels, values in observed.items():
                key = bounded(cells, labels)
                before = cells.get(key)
                cells[key] = values if before is None else [a + b for a, b in zip(before, values, strict=True)]


def bounded(series: Mapping[Labels, object], labels: Labels) -> Labels:
    """`labels`, or OTHER for each of them if `series` is full; each worker bounds its own, this is for their sum."""
    if labels in series or len(series) < LABEL_SETS_LIMIT or OTHER in labels:
        return labels
    return (OTHER,) * len(labels)
