"""What is counted, as one value of a worker; and the folder in which workers show each other their counts.

Money is counted in `int`. A value of counts can be written, read and added up.

Invariant kept here: as a scrape sees it, a worker's counts stand in exactly one place, its own file while it lives
or the totals of the dead once it is gone, so that no counter ever falls and none is added twice. At most the counts
since its last flush go with a killed worker.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

# Names the folder to a worker.
METRICS_DIR_VARIABLE: Final = "METERGATE_METRICS_DIR"
Outcome = Literal["settled", "voided", "direct_write", "lost"]
Labels = tuple[str, ...]

# Label sets of one metric; what comes beyond is counted under OTHER.
LABEL_SETS_LIMIT: Final = 1_000
OTHER: Final = "other"
TOKEN_CLASSES: Final = ("input", "cached_input", "output", "reasoning")
OUTCOMES: Final[tuple[Outcome, ...]] = ("settled", "voided", "direct_write", "lost")

# Upper bounds of buckets, in seconds: of our own steps, and of what a provider takes (upstream_timeout_s is 600).
STEP_BOUNDS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
PROVIDER_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Counter(NamedTuple):
    """How a counter is called in `/metrics`: its help and its labels."""

    help: str
    labels: Labels = ()


class Histogram(NamedTuple):
    """How a histogram is called in `/metrics`: its help, the upper bounds of its buckets in seconds, its labels."""

    help: str
    bounds: tuple[float, ...]
    labels: Labels = ()


COUNTERS: Final = {
    "requests": Counter("Requests answered.", ("endpoint", "provider", "status", "stream")),
    "refusals": Counter("Requests refused by the gateway itself.", ("code",)),
    "upstream_refusals": Counter("Requests refused by a provider, by its status.", ("provider", "status")),
    "failed_attempts": Counter("Attempts at a provider that failed before an answer began.", ("provider", "reason")),
    "tokens": Counter("Tokens metered; input includes cached_input, output includes reasoning.", ("class", "provider")),
    "cost_nano_usd": Counter("What providers charge, in nano-USD.", ("provider",)),
    "charged_nano_usd": Counter("What accounts were charged, in nano-USD.", ("provider",)),
    "hold_exceeded": Counter("Requests whose usage was above their hold."),
    "implausible_usage": Counter("Usage that was not believed; the hold was charged instead."),
    "usage_anomalies": Counter("Reports of usage with something unknown or contradictory.", ("provider", "anomaly")),
    "unknown_tools": Counter("Requests with a tool of a type that is not known here, by the type.", ("type",)),
    "tool_overruns": Counter("Streams that were cut because tools at the provider went beyond their hold."),
    "settlements": Counter("Holds that ended, by how.", ("outcome", "estimated")),
    "connections_ended": Counter("Connections that ended for others, by what they awaited.", ("awaited",)),
    "connections_refused": Counter("Connections and requests refused where a share is full.", ("share",)),
    "loop_failures": Counter("Loops beside the requests that failed and began anew.", ("loop",)),
}
HISTOGRAMS: Final = {
    "hold_latency_seconds": Histogram("Time to take a hold.", STEP_BOUNDS),
    "settle_latency_seconds": Histogram("Time from an answer's end to its debit being kept.", STEP_BOUNDS),
    "upstream_latency_seconds": Histogram("Time from sending to the answer's head.", PROVIDER_BOUNDS, ("provider",)),
    "time_to_first_byte_seconds": Histogram(
        "Time from a stream's request to its first byte from the provider.", PROVIDER_BOUNDS, ("provider",)
    ),
}


class Snapshot(msgspec.Struct):
    """Counts of one worker, or summed ones, by metric and labels. A histogram's values: one count per bucket, the count
    above the last bound, and the sum in seconds. `names` are the workers that are in the totals of the dead, `notes`
    what one has to say in words, by what it is about.

    Raises ValueError for metrics or buckets other than this version's.
    """

    counters: dict[str, dict[Labels, int]] = msgspec.field(default_factory=dict)
    histograms: dict[str, dict[Labels, list[float]]] = msgspec.field(default_factory=dict)
    gauges: dict[str, float] = msgspec.field(default_factory=dict)
    names: list[str] = msgspec.field(default_factory=list)
    notes: dict[str, list[str]] = msgspec.field(default_factory=dict)

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
    """Return `labels`, or OTHER for each of them if `series` is full; each worker bounds its own, this is for their
    sum."""
    if labels in series or len(series) < LABEL_SETS_LIMIT or OTHER in labels:
        return labels
    return (OTHER,) * len(labels)


# Dead workers that are folded at once, and whose names are remembered.
DEAD_NAMES_LIMIT: Final = 1_000

_DEAD_TOTALS: Final = "dead-workers"
_FOLDING: Final = "folding"
_log = logging.getLogger(__name__)


class Folder:
    """A worker's place in the shared folder: NAME.snapshot, replaced as a whole, and NAME.lock, locked while it lives.

    The kernel gives the lock back however a process ends. A worker whose lock is free is dead: whoever has the lock of
    _FOLDING adds its snapshot to _DEAD_TOTALS, which list its name from then on, and only then removes its files.
    Readers take no lock: they read the snapshots first and the totals last, and leave out every snapshot listed there.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"  # a process id comes back, and in a container soon
        self._written = b""
        unlocked = self._file(".new")
        self._lock = os.open(unlocked, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self._file(".lock"))  # locked before anyone can see it
        self.fold()

    def write(self, snapshot: Snapshot) -> None:
        """Replace this worker's snapshot if it has changed."""
        packed = msgspec.msgpack.encode(snapshot)
        if packed != self._written:
            self._replace(self._file(".snapshot"), packed)
            self._written = packed

    def others(self) -> list[Snapshot]:
        """Return the snapshots of all other workers, and the totals of the dead."""
        found = {}
        for name in self._names() - {self._name}:
            found[name] = self._read(self._file(".snapshot", name))
            if not self._alive(name):
                found[name].gauges.clear()
                found[name].notes.clear()
        dead = self._read(self._path / _DEAD_TOTALS)
        return [dead, *(snapshot for name, snapshot in found.items() if name not in dead.names)]

    def fold(self) -> None:
        """Add the snapshots of dead workers to the totals and remove them, unless another worker is at it."""
        folding = os.open(self._path / _FOLDING, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(folding, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead = [name for name in sorted(self._names()) if not self._alive(name)][:DEAD_NAMES_LIMIT]
            if dead:
                self._fold(dead)
        except BlockingIOError:
            return
        except OSError as error:  # a full disk, as a rule: their snapshots stay, and are counted where they are
            _log.warning("counts of ended workers can't be added up: %s", error)
        finally:
            os.close(folding)

    def _fold(self, dead: list[str]) -> None:
        total = self._read(self._path / _DEAD_TOTALS)
        for name in dead:
            if name not in total.names:  # one that is listed was added, but not removed yet
                total.add(self._read(self._file(".snapshot", name)))
        total.names = [*(name for name in total.names if name not in dead), *dead][-DEAD_NAMES_LIMIT:]
        self._replace(self._path / _DEAD_TOTALS, msgspec.msgpack.encode(total))
        for name in dead:
            for suffix in (".new", ".snapshot", ".lock"):
                self._file(suffix, name).unlink(missing_ok=True)

    def close(self) -> None:
        """Leave: from now on this worker counts as dead."""
        os.close(self._lock)

    def _file(self, suffix: str, name: str | None = None) -> Path:
        return self._path / f"{name or self._name}{suffix}"

    def _names(self) -> set[str]:
        return {path.stem for path in self._path.iterdir() if path.suffix in (".snapshot", ".lock")}

    def _replace(self, path: Path, content: bytes) -> None:
        draft = self._file(".new")
        draft.write_bytes(content)
        draft.replace(path)

    def _alive(self, name: str) -> bool:
        try:
            lock = os.open(self._file(".lock", name), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(
                lock, fcntl.LOCK_SH | fcntl.LOCK_NB
            )  # shared: two that look don't take each other for its owner
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _read(self, path: Path) -> Snapshot:
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=Snapshot)
        except FileNotFoundError:
            return Snapshot()
        except msgspec.DecodeError as error:  # of another version, which a folder made anew does not have
            _log.warning("metrics in %s are left out: %s", path.name, error)
            return Snapshot()
