"""The gateway's Prometheus metrics: counted cheaply in each worker, shown as one sum by whichever worker is scraped.

Counting touches plain dictionaries and lists only. Every FLUSH_INTERVAL_S, and before a scrape, `flush` writes all
counts of this worker into one file of a folder that the workers share; `render` adds the files up. The supervisor makes
that folder, anew each time it starts, and names it to its workers in METRICS_DIR_VARIABLE. Without a folder there is
one process, and nothing is written. prometheus_client's own multiprocess mode is not used: it writes to a mapped
file on every observation, and keeps a file of every worker that ever lived.

A histogram's buckets keep the trace of the last request that was observed in each and is traced: an exemplar, which
leads from a slow bucket to a request. Only OpenMetrics has a place for them.

Money is counted in `int`; it becomes a float in the rendered text alone. One thread only: the event loop's. What
processes tell each other in words goes the same way.

Invariant kept here: as a scrape sees it, a worker's counts stand in exactly one place, its own file while it lives
or the totals of the dead once it is gone, so that no counter ever falls and none is added twice. At most the counts
since its last flush go with a killed worker.
"""

import fcntl
import logging
import math
import os
import re
import secrets
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from billing.ledger.debits import Debit

from billing.traffic.counts import BOUNDS_MS, FAILED, FIRST_BYTE, HEAD, PASSED_ON, REFUSED, Counted

# Names the folder to a worker.
METRICS_DIR_VARIABLE: Final = "METERGATE_METRICS_DIR"
Outcome = Literal["settled", "voided", "direct_write", "lost"]
# How a request that was held ended, as its client sees it: `failed` was given back.
Ending = Literal["answered", "cut", "failed"]
Labels = tuple[str, ...]
# The id of a trace, what was observed, and when, in Unix seconds.
Exemplar = tuple[str, float, float]
# By bucket.
Exemplars = dict[int, Exemplar]
OPENMETRICS: Final = "application/openmetrics-text"

FIRST_ERROR: Final = 400
# Label sets of one metric; what comes beyond is counted under OTHER.
LABEL_SETS_LIMIT: Final = 1_000
OTHER: Final = "other"
TOKEN_CLASSES: Final = ("input", "cached_input", "output", "reasoning")
OUTCOMES: Final[tuple[Outcome, ...]] = ("settled", "voided", "direct_write", "lost")

# Upper bounds of buckets, in seconds: of our own steps, and of what a provider takes (upstream_timeout_s is 600).
STEP_BOUNDS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
PROVIDER_BOUNDS: Final = tuple(bound_ms / 1000 for bound_ms in BOUNDS_MS)


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
    "model_requests": Counter("Requests that were held, by how they ended.", ("model", "plan", "outcome")),
    "model_charged_nano_usd": Counter("What accounts were charged, in nano-USD.", ("model", "plan", "outcome")),
    "settlements": Counter("Holds that ended, by how.", ("outcome", "estimated")),
    "connections_ended": Counter("Connections that ended for others, by what they awaited.", ("awaited",)),
    "connections_refused": Counter("Connections and requests refused where a share is full.", ("share",)),
    "loop_failures": Counter("Loops beside the requests that failed and were restarted.", ("loop",)),
}
HISTOGRAMS: Final = {
    "hold_latency_seconds": Histogram("Time to take a hold.", STEP_BOUNDS),
    "settle_latency_seconds": Histogram("Time from an answer's end to its debit being kept.", STEP_BOUNDS),
    "upstream_latency_seconds": Histogram("Time from sending to the answer's head.", PROVIDER_BOUNDS, ("provider",)),
    "time_to_first_byte_seconds": Histogram(
        "Time from a stream's request to its first byte from the provider.", PROVIDER_BOUNDS, ("provider",)
    ),
}


class Traced(Protocol):
    """A request that is traced (`gateway.tracing.trace.Trace`)."""

    trace_id: str


class Snapshot(msgspec.Struct):
    """Counts of one worker, or summed ones, by metric and labels. A histogram's values: one count per bucket, the count
    above the last bound, and the sum in seconds; of exemplars the newest of each bucket. `names` are the workers that
    are in the totals of the dead, `notes` what one has to say in words, by what it is about.

    Raises ValueError for metrics or buckets other than this version's.
    """

    counters: dict[str, dict[Labels, int]] = msgspec.field(default_factory=dict)
    histograms: dict[str, dict[Labels, list[float]]] = msgspec.field(default_factory=dict)
    gauges: dict[str, float] = msgspec.field(default_factory=dict)
    names: list[str] = msgspec.field(default_factory=list)
    notes: dict[str, list[str]] = msgspec.field(default_factory=dict)
    exemplars: dict[str, dict[Labels, Exemplars]] = msgspec.field(default_factory=dict)

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
        for name, traced in part.exemplars.items():
            for labels, found in traced.items():
                kept = self.exemplars.setdefault(name, {}).setdefault(labels, {})
                for bucket, exemplar in found.items():
                    if bucket not in kept or kept[bucket][2] <= exemplar[2]:
                        kept[bucket] = exemplar


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


Combine = Literal["sum", "max"]
FLUSH_INTERVAL_S: Final = 2.0
PREFIX: Final = "metergate_"

K = TypeVar("K")
N = TypeVar("N", bound=float)


class _Gauge(NamedTuple):
    name: str
    labels: Mapping[str, str]
    help: str
    read: Callable[[], float]
    combine: Combine


class Metrics:
    """All metrics of this process. Every method is synchronous and, but for `flush` and `render`, under a microsecond.

    `folder` is what the workers share, made if missing; None for a single process. One that only serves pages is no
    worker (`is_worker`). Raises OSError if the folder can't be used.
    """

    def __init__(self, folder: Path | None = None, *, is_worker: bool = True) -> None:
        self._folder = None if folder is None else Folder(folder)
        self._gauges: dict[str, _Gauge] = {}
        self._write_failed = False
        self._requests: _Cells[tuple[str, str, int | str, bool | str], int] = _Cells([0], (OTHER,) * 4)
        self._refusals: _Cells[str, int] = _Cells([0], OTHER)
        self._upstream_refusals: _Cells[tuple[str, int | str], int] = _Cells([0], (OTHER, OTHER))
        self._failed_attempts: _Cells[tuple[str, str], int] = _Cells([0], (OTHER, OTHER))
        # Tokens by class, then what they cost and what is charged for them.
        self._usage: _Cells[str, int] = _Cells(
            [0] * (len(TOKEN_CLASSES) + 2), OTHER, LABEL_SETS_LIMIT // len(TOKEN_CLASSES)
        )
        self._hold_exceeded = 0
        self._implausible_usage = 0
        self._usage_anomalies: _Cells[tuple[str, str], int] = _Cells([0], (OTHER, OTHER))
        self._unknown_tools: _Cells[str, int] = _Cells([0], OTHER)
        self._tool_overruns = 0
        self._models: _Cells[tuple[str, str, str], int] = _Cells([0, 0], (OTHER,) * 3)
        self._settlements: _Cells[tuple[str, bool | str], int] = _Cells([0], (OTHER, OTHER))
        for outcome in OUTCOMES:  # there from the start: a series whose first value is 1 has not risen for Prometheus
            self._settlements[outcome, False] = [0]
            self._settlements[outcome, True] = [0]
        self.loop_failures: Mapping[str, int] = {}
        """How often each loop beside the requests has failed, by its name; whoever runs the loops counts them."""
        self.connections_ended: Mapping[Any, int] = {}
        """Connections that ended for others, by what they waited for; and newcomers that were refused, by the share."""
        self.connections_refused: Mapping[Any, int] = {}
        self._exemplars: dict[str, dict[Labels, Exemplars]] = {}
        self._hold: list[float] = [0] * (len(STEP_BOUNDS) + 2)
        self._settle: list[float] = [0] * (len(STEP_BOUNDS) + 2)
        self._upstream: _Cells[str, float] = _Cells([0] * (len(PROVIDER_BOUNDS) + 2), OTHER)
        self._first_byte: _Cells[str, float] = _Cells([0] * (len(PROVIDER_BOUNDS) + 2), OTHER)
        self.last_failures: dict[str, tuple[float, str]] = {}
        """When an attempt at each provider last failed, in Unix seconds, and how."""
        self.notes: dict[str, list[str]] = {}  # what this process has to say, by what it is about
        self.gauge("workers", "Worker processes that serve.", lambda: int(is_worker))

    def request(self, endpoint: str, provider: str, status: int, stream: bool) -> None:
        """Count one answered request; `provider` is the one that served, by its configured name, or "" if none did."""
        self._requests[endpoint, provider, status, stream][0] += 1

    def refusal(self, code: str) -> None:
        """Count one refusal of the gateway's own, by its code."""
        self._refusals[code][0] += 1

    def upstream_refusal(self, provider: str, status: int) -> None:
        """Count one refusal (4xx or 5xx) of a provider's."""
        self._upstream_refusals[provider, status][0] += 1

    def attempt_failed(self, provider: str, reason: str) -> None:
        """Count one attempt at a provider that failed before its answer began; `reason` is its status, or `timeout`,
        `unreachable` or `busy`."""
        self._failed_attempts[provider, reason][0] += 1
        self.last_failures[provider] = time.time(), reason

    def failed(self, model: str, plan: str) -> None:
        """Count one request that was held, and given back."""
        self._models[model, plan, "failed"][0] += 1

    def charged(self, debit: "Debit", outcome: Outcome, seconds: float, plan: str, trace: Traced | None = None) -> None:
        """Count a debit that is outside the process, `seconds` after its answer's end: its tokens, what it costs at the
        provider, what its account is charged, and how its hold ended. As in usage events, input tokens include the
        cached, output tokens reasoning."""
        settle, cell = self._settle, self._usage[debit.provider]
        ended: Ending = "answered" if debit.status < FIRST_ERROR else "cut"
        of_model = self._models[debit.model, plan, ended]
        of_model[0] += 1
        of_model[1] += debit.charged_nano
        cell[0] += debit.input_tokens
        cell[1] += debit.cached_input_tokens
        cell[2] += debit.output_tokens
        cell[3] += debit.reasoning_tokens
        cell[4] += debit.cost_nano
        cell[5] += debit.charged_nano
        settle[bisect_left(STEP_BOUNDS, seconds)] += 1
        settle[-1] += seconds
        if trace is not None:
            self._traced("settle_latency_seconds", (), seconds, trace)
        self._settlements[outcome, debit.estimated][0] += 1

    def _traced(self, name: str, labels: Labels, seconds: float, trace: Traced) -> None:
        """Keep the trace of a request for the bucket into which it was counted."""
        series = self._exemplars.setdefault(name, {})
        found = series.setdefault(bounded(series, labels), {})
        found[bisect_left(HISTOGRAMS[name].bounds, seconds)] = trace.trace_id, seconds, time.time()

    def hold_latency(self, seconds: float, trace: Traced | None = None) -> None:
        """Observe the time that taking one hold took."""
        self._hold[bisect_left(STEP_BOUNDS, seconds)] += 1
        self._hold[-1] += seconds
        if trace is not None:
            self._traced("hold_latency_seconds", (), seconds, trace)

    def upstream_latency(self, provider: str, seconds: float, trace: Traced | None = None) -> None:
        """Observe the time from forwarding one request to the head of its answer."""
        if trace is not None:
            self._traced("upstream_latency_seconds", (provider,), seconds, trace)
        cell = self._upstream[provider]
        cell[bisect_left(PROVIDER_BOUNDS, seconds)] += 1
        cell[-1] += seconds

    def time_to_first_byte(self, provider: str, seconds: float, trace: Traced | None = None) -> None:
        """Observe the time from the arrival of one streamed request to the first byte of its answer's body."""
        if trace is not None:
            self._traced("time_to_first_byte_seconds", (provider,), seconds, trace)
        cell = self._first_byte[provider]
        cell[bisect_left(PROVIDER_BOUNDS, seconds)] += 1
        cell[-1] += seconds

    def hold_exceeded(self) -> None:
        """Count one request whose usage came out above its hold."""
        self._hold_exceeded += 1

    def implausible_usage(self) -> None:
        """Count one usage that was not believed: the hold was charged instead."""
        self._implausible_usage += 1

    def usage_anomaly(self, provider: str, anomaly: str) -> None:
        """Count one anomaly about a usage that was charged all the same; `anomaly` says what could not be placed:
        `service_tier`, `speed`, `region`, `field`, `model` or `total`."""
        self._usage_anomalies[provider, anomaly][0] += 1

    def unknown_tool(self, kind: str) -> None:
        """Count one request with a tool of a type that is not known here."""
        self._unknown_tools[kind][0] += 1

    def tool_overrun(self) -> None:
        """Count one stream that was cut because tools at the provider went beyond its hold."""
        self._tool_overruns += 1

    def settled(self, estimated: bool, outcome: Outcome) -> None:
        """Count one hold that ended; `estimated` if the usage was not the provider's own count."""
        self._settlements[outcome, estimated][0] += 1

    def gauge(self, name: str, help: str, read: Callable[[], float], combine: Combine = "sum", **labels: str) -> None:
        """Show what `read` returns at each flush and scrape as `metergate_NAME`, with these labels, such as
        `provider`; NaN or infinite: not shown.

        `combine`: "sum" for what each worker has its own share of, "max" for what every worker sees alike. Raises
        ValueError for a name that is taken or no metric's name.
        """
        key = " ".join((name, *labels.values()))
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or {key, name} & {*self._gauges, *COUNTERS, *HISTOGRAMS}:
            raise ValueError(f"{name!r} is taken, or no name for a metric")
        self._gauges[key] = _Gauge(name, labels, help, read, combine)

    def traffic(self) -> Iterator[Counted]:
        """Yield what this process has counted so far of refusals and of providers' answers."""
        for code, (count,) in self._refusals.items():
            yield Counted(REFUSED, code, "", count)
        for (provider, reason), (count,) in self._failed_attempts.items():
            yield Counted(FAILED, provider, reason, count)
        for (name, status), (count,) in self._upstream_refusals.items():
            yield Counted(PASSED_ON, name, str(status), count)
        for what, cells in ((HEAD, self._upstream), (FIRST_BYTE, self._first_byte)):
            for provider, values in cells.items():
                buckets = tuple(map(int, values[:-1]))
                yield Counted(what, provider, "", sum(buckets), buckets)

    def flush(self) -> None:
        """Make this worker's counts visible to the others. A folder that can't be written to is logged, not raised."""
        if self._folder is not None:
            self._write(self._folder, self._snapshot())

    def told(self, about: str, *, own: bool = True) -> list[str]:
        """Return `notes` of this process, unless `own` is false, and of the others as of their last `flush`, each
        once."""
        parts: list[dict[str, list[str]]] = [self.notes] if own else []
        with suppress(OSError):
            parts += [part.notes for part in (self._folder.others() if self._folder else ())]
        return list(dict.fromkeys(each for notes in parts for each in notes.get(about, ())))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the metrics of all workers, and their content type: Prometheus's text format, or OpenMetrics with
        exemplars, where the header `Accept` names it. Raises OSError if the folder can't be read."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest  # at the first scrape
        from prometheus_client.openmetrics import exposition as openmetrics

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        if OPENMETRICS in accept.lower():
            shown: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
            return shown, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def close(self) -> None:
        """Flush for the last time and leave the folder; from then on only this process's own counts are rendered."""
        if self._folder is not None:
            self.flush()
            self._folder.close()
            self._folder = None

    def collect(self) -> "Iterator[Metric]":
        """Yield for prometheus_client's registry: the families of all workers together."""
        from prometheus_client.core import GaugeMetricFamily

        own = self._snapshot()
        parts = [own]
        if self._folder is not None:
            self._write(self._folder, own)
            self._folder.fold()
            parts += self._folder.others()
        total = Snapshot()
        for part in parts:
            total.add(part)
        yield from _families(total)
        families = dict[str, GaugeMetricFamily]()
        for key, gauge in self._gauges.items():
            values = [part.gauges[key] for part in parts if key in part.gauges]
            if values:
                made = GaugeMetricFamily(PREFIX + gauge.name, gauge.help, labels=list(gauge.labels))
                family = families.setdefault(gauge.name, made)
                value = sum(values) if gauge.combine == "sum" else max(values)
                family.add_metric(list(gauge.labels.values()), value)
        yield from families.values()

    def _write(self, folder: "Folder", snapshot: Snapshot) -> None:
        try:
            folder.write(snapshot)
        except OSError as error:
            if not self._write_failed:
                _log.warning("metrics can't be written, scrapes will miss this worker's: %s", error)
            self._write_failed = True
        else:
            self._write_failed = False

    def _snapshot(self) -> Snapshot:
        gauges = {name: gauge.read() for name, gauge in self._gauges.items()}
        return Snapshot(
            counters={
                "requests": {_labels(key): cell[0] for key, cell in self._requests.items()},
                "refusals": {(code,): cell[0] for code, cell in self._refusals.items()},
                "upstream_refusals": {_labels(key): cell[0] for key, cell in self._upstream_refusals.items()},
                "failed_attempts": {_labels(key): cell[0] for key, cell in self._failed_attempts.items()},
                "tokens": {
                    (name, provider): count
                    for provider, cell in self._usage.items()
                    for name, count in zip(TOKEN_CLASSES, cell[:-2], strict=True)
                },
                "cost_nano_usd": {(provider,): cell[-2] for provider, cell in self._usage.items()},
                "charged_nano_usd": {(provider,): cell[-1] for provider, cell in self._usage.items()},
                "hold_exceeded": {(): self._hold_exceeded},
                "implausible_usage": {(): self._implausible_usage},
                "usage_anomalies": {key: cell[0] for key, cell in self._usage_anomalies.items()},
                "unknown_tools": {(kind,): cell[0] for kind, cell in self._unknown_tools.items()},
                "tool_overruns": {(): self._tool_overruns},
                "model_requests": {key: cell[0] for key, cell in self._models.items()},
                "model_charged_nano_usd": {key: cell[1] for key, cell in self._models.items()},
                "settlements": {_labels(key): cell[0] for key, cell in self._settlements.items()},
                "connections_ended": {(awaited,): count for awaited, count in self.connections_ended.items()},
                "connections_refused": {(share,): count for share, count in self.connections_refused.items()},
                "loop_failures": {(name,): count for name, count in self.loop_failures.items()},
            },
            histograms={
                "hold_latency_seconds": {(): self._hold},
                "settle_latency_seconds": {(): self._settle},
                "upstream_latency_seconds": {(provider,): cell for provider, cell in self._upstream.items()},
                "time_to_first_byte_seconds": {(provider,): cell for provider, cell in self._first_byte.items()},
            },
            gauges={name: float(value) for name, value in gauges.items() if math.isfinite(value)},
            notes=self.notes,
            exemplars=self._exemplars,
        )


class _Cells(dict[K, list[N]], Generic[K, N]):
    """A list of numbers per label set, made at its first use; beyond `limit` sets, the one of `other` for them all."""

    def __init__(self, zero: list[N], other: K, limit: int = LABEL_SETS_LIMIT) -> None:
        super().__init__()
        self.zero, self.other, self.limit = zero, other, limit

    def __missing__(self, key: K) -> list[N]:
        if len(self) >= self.limit and key != self.other:
            return self[self.other]
        cell = self[key] = self.zero.copy()
        return cell


def _families(total: Snapshot) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    for name, counter in COUNTERS.items():
        counts = CounterMetricFamily(PREFIX + name, counter.help, labels=counter.labels)
        for labels, count in sorted(total.counters.get(name, {}).items()):
            counts.add_metric(labels, count)
        yield counts
    for name, histogram in HISTOGRAMS.items():
        observed = HistogramMetricFamily(PREFIX + name, histogram.help, labels=histogram.labels)
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        exemplars = total.exemplars.get(name, {})
        for labels, (*buckets, sum_s) in sorted(total.histograms.get(name, {}).items()):
            traced = exemplars.get(labels, {})
            told = [
                (bound, count)
                if number not in traced
                else (bound, count, Exemplar({"trace_id": traced[number][0]}, *traced[number][1:]))
                for number, (bound, count) in enumerate(zip(bounds, accumulate(buckets), strict=True))
            ]
            observed.add_metric(labels, told, sum_s)
        yield observed


def _labels(key: Iterable[object]) -> Labels:
    return tuple(str(part).lower() if isinstance(part, bool) else str(part) for part in key)
