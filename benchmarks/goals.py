"""The figures that Metergate is held to: each with its bar, its aim, and how it is found in the samples of a run. Pure.

A ratio is formed within each round, and its median over the rounds is judged. Nothing is corrected or fitted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Spread, ratios
from benchmarks.subjects import (
    API_BURSTS,
    BARE,
    BURSTS,
    CLOSED,
    COUNTED,
    CROWD,
    DIRECT,
    IDLE,
    LEDGER,
    LONG,
    MEMORY,
    METERGATE,
    PAGES,
    PROMPTS,
    READS,
    SATURATION,
    SERVES,
    SERVICE,
    SERVICE_DEBITS,
    STARTS,
    STREAMS,
    WORKERS,
    Sample,
)

ONE_WORKER: Final = "1 worker"
TWO_WORKERS: Final = "2 workers"
TWICE_CONNECTIONS: Final = "2 workers, twice the connections"

Phases = Mapping[str, Mapping[str, Sequence[Sample]]]


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure: at most `bar`, unless `at_least`; `find` gives it round by round, nothing if it was not measured."""

    name: str
    unit: str
    bar: float
    aim: float | None
    find: Callable[[Phases], list[float]]
    how: str
    at_least: bool = False
    decimals: int = 2

    def holds(self, value: float, wanted: float) -> bool:
        """Whether a value is as good as what is wanted."""
        return value >= wanted if self.at_least else value <= wanted


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal and what was found of it."""

    goal: Goal
    found: Spread

    @property
    def holds(self) -> bool:
        """Whether the bar holds."""
        return self.goal.holds(self.found.median, self.goal.bar)

    @property
    def reached(self) -> bool:
        """Whether the aim is reached; it is where there is none."""
        return self.goal.aim is None or self.goal.holds(self.found.median, self.goal.aim)


def judge(phases: Phases) -> list[Judged]:
    """Every goal that this run has measured."""
    found = ((goal, goal.find(phases)) for goal in GOALS)
    return [Judged(goal, Spread.of(values)) for goal, values in found if values]


def of_bare(phase: str, figure: str = "cpu_us") -> Callable[[Phases], list[float]]:
    """Metergate's figure over bare's."""
    return lambda phases: ratios(_rounds(phases, phase, METERGATE, figure), _rounds(phases, phase, BARE, figure))


def of_chat(phase: str) -> Callable[[Phases], list[float]]:
    """The CPU of an event of another API's burst over that of a chunk of a chat's."""

    def find(phases: Phases) -> list[float]:
        events = _rounds(phases, phase, METERGATE, "cpu_us")
        return ratios(events, _rounds(phases, BURSTS, METERGATE, "cpu_us")) if events else []

    return find


def own(phase: str, figure: str, subject: str = METERGATE) -> Callable[[Phases], list[float]]:
    """A figure by itself."""
    return lambda phases: _rounds(phases, phase, subject, figure)


def added(phases: Phases, phase: str, subject: str, figure: str) -> list[float]:
    """What a proxy adds to the direct way, round by round."""
    pairs = zip(_rounds(phases, phase, subject, figure), _rounds(phases, phase, DIRECT, figure), strict=True)
    return [through - direct for through, direct in pairs]


def added_of_bare(phase: str, figure: str) -> Callable[[Phases], list[float]]:
    """What Metergate adds over what bare adds."""

    def find(phases: Phases) -> list[float]:
        return ratios(added(phases, phase, METERGATE, figure), added(phases, phase, BARE, figure))

    return find


def two_of_one(subject: str) -> Callable[[Phases], list[float]]:
    """One worker's CPU a request, over the CPU a request of the busier one of two. See the goal's `how`."""
    return lambda phases: ratios(
        _rounds(phases, WORKERS, ONE_WORKER, "cpu_us"), _rounds(phases, WORKERS, subject, "busiest_us")
    )


def _rounds(phases: Phases, phase: str, subject: str, figure: str) -> list[float]:
    return [sample[figure] for sample in phases.get(phase, {}).get(subject, ())]


_STARTED: Final = "from start to end, one command at a time, bytecode on the disk"
_SATURATED: Final = "CPU of the target's process, closed loop of 64 connections"
_CLOSED: Final = "CPU of the target's process, closed loop of 16 clients that close each connection after its answer"
_PACED: Final = "CPU of the target's process, 100 requests/s whether or not earlier ones were answered"

_OF_CHAT: Final = (
    "as many deltas at once as a chat's burst has chunks; an event bears its share of the request, as a chunk does"
)

GOALS: Final = (
    Goal("CPU a JSON request at saturation", "of bare", 0.55, 0.45, of_bare(SATURATION), _SATURATED),
    Goal("CPU a JSON request at 100/s", "of bare", 1.25, 1.00, of_bare("100/s"), _PACED),
    Goal("CPU a request on a connection of its own", "of bare", 1.0, 0.8, of_bare(CLOSED), _CLOSED),
    Goal(
        "CPU an SSE chunk",
        "of bare",
        1.05,
        0.95,
        of_bare(STREAMS),
        "streams of 50 chunks, 20 ms apart, 20 at once; a chunk bears its share of the request",
    ),
    Goal(
        "CPU a chunk of a burst",
        "of bare",
        0.95,
        0.80,
        of_bare(BURSTS),
        "streams of 52 chunks that come at once, closed loop of 16 connections; a chunk bears its share of the "
        "request; Metergate's come with `usage: null`, which it takes out, bare's without",
    ),
    *(
        Goal(f"CPU an event of a burst, {name}", "of a chat's", 1.3, 1.1, of_chat(phase), _OF_CHAT)
        for name, phase in API_BURSTS.items()
    ),
    Goal(
        "Redis's CPU a request",
        "µs",
        80,
        50,
        own(SATURATION, "redis_us"),
        "all that the Redis process used at saturation: admission, settlement, acknowledgement, append-only file",
        decimals=0,
    ),
    Goal(
        "latency added at 200/s, p50",
        "of bare's",
        1.5,
        1.0,
        added_of_bare("200/s", "p50_ms"),
        "(Metergate - direct) / (bare - direct)",
    ),
    Goal(
        "ledger, one connection",
        "rows/s",
        20_000,
        40_000,
        own(LEDGER, "rows_per_s", LEDGER),
        "write_debits in batches of 500, a batch after the other, every commit synced; rolled up within the time",
        at_least=True,
        decimals=0,
    ),
    Goal(
        "debits of services",
        "a second",
        2_000,
        3_000,
        own(SERVICE, "events_per_s", SERVICE_DEBITS),
        "single calls of `/api/service/debits` that one worker answers, each after its commit, 64 connections",
        at_least=True,
        decimals=0,
    ),
    Goal("CPU a prompt of 37 kB", "of bare", 0.7, 0.5, of_bare(PROMPTS), "closed loop of 16 connections"),
    Goal(
        "memory of a worker",
        "MB",
        200,
        120,
        own(MEMORY, "resident_mb"),
        "resident after saturation, vocabularies and every key loaded; shared pages count in full",
        decimals=0,
    ),
    Goal(
        "memory of a slow stream",
        "kB",
        12,
        9,
        own(CROWD, "kb_a_stream"),
        "growth of a fresh worker's resident memory when 2,000 streams run at once, over 2,000",
        decimals=1,
    ),
    Goal(
        "memory of a stream of 2,000 events",
        "kB",
        80,
        64,
        own(LONG, "kb_a_stream"),
        "growth of a fresh worker's resident memory when all but the end of 20 such streams has come, over 20",
        decimals=0,
    ),
    Goal(
        "memory of a fresh worker",
        "MB",
        100,
        75,
        own(IDLE, "fresh_mb"),
        "resident when it begins to serve; shared pages count in full",
        decimals=0,
    ),
    Goal(
        "CPU of an idle worker",
        "ms a second",
        3.0,
        2.0,
        own(IDLE, "idle_ms_per_s"),
        "CPU of a worker's process that has served nothing yet",
    ),
    Goal(
        "start of `metergate serve`",
        "s",
        1.0,
        0.6,
        own(SERVES, "wall_s"),
        "one worker on stores that run and are migrated, until `/readyz` answers; bytecode on the disk",
    ),
    Goal(
        "throughput of two workers",
        "of one",
        1.8,
        1.95,
        two_of_one(TWO_WORKERS),
        "computed from CPU, not from requests/s: a worker's core is full at 1 / (its CPU a request), and of two cores "
        "the fuller one sets the limit, so (CPU a request of one worker) / (CPU of the busier of two workers, over all "
        "requests of both); 64 connections in both cases",
        at_least=True,
    ),
    Goal(
        "delay by a counted 1 MB prompt, p99",
        "ms",
        20,
        None,
        own(COUNTED, "added_p99_ms"),
        "p99 of 100 small requests/s with two such prompts a second beside them, less the same without",
        decimals=1,
    ),
    Goal("`metergate --version`", "s", 0.4, 0.2, own(STARTS, "wall_s", "--version"), _STARTED),
    Goal("`metergate operator --help`", "s", 0.4, 0.3, own(STARTS, "wall_s", "operator --help"), _STARTED),
    Goal(
        "the slowest page of the console",
        "ms",
        100,
        None,
        own(PAGES, "slowest_ms"),
        "the median of 15 looks at each page, over a ledger of 100,000 events, a tenth of them one account's with 480 "
        "combinations; `benchmarks console` has ten million",
        decimals=0,
    ),
    Goal(
        "the slowest read of an account",
        "ms",
        50,
        None,
        own(PAGES, "slowest_ms", READS),
        "the same of each read of the API: summary, buckets of 31 days by one and two names, events, transactions",
        decimals=0,
    ),
)
