"""The phases of a run: who is measured against whom, in which order, for how long.

In every round each subject gets a short turn, and every other round goes the opposite way round, so that what the
machine does meanwhile hits all of them alike. Ratios are taken within a round. At the end everything is counted up:
what clients got, what the upstream gave, what the ledger holds.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks import wire
from benchmarks.figures import percentile
from benchmarks.load import Run, Tally
from benchmarks.machine import OTHER_CORE, TARGET_CORE, resident_bytes
from benchmarks.seed import Size, Written, written
from benchmarks.stage import Clocks, Installation, Process, Stage

DIRECT: Final = "direct"
BARE: Final = "bare"
METERGATE: Final = "metergate, 6 windows"
WINDOWS: Final = (0, 2, 6)
PARTITIONS: Final = 1
PRODUCTION_PARTITIONS: Final = 64

SATURATION: Final = "saturation"
STREAMS: Final = "streams"
LARGE: Final = "large prompts"
LARGE_BYTES: Final = 1_000_000
LARGE_RATE: Final = 100
WARM_CONNECTIONS: Final = 16

Sample = dict[str, float]
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Paced:
    """Rounds at one fixed rate."""

    rate: int
    measure_s: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Mode:
    """How much is measured; durations are of one turn of one subject. No rounds: the phase is left out."""

    name: str
    size: Size
    saturation_s: float
    saturation_rounds: int
    paced: tuple[Paced, ...]
    stream_s: float
    stream_rounds: int
    large_s: float
    large_rounds: int
    windows: tuple[int, ...] = WINDOWS
    production: bool = False
    warm_s: float = 0.4
    connections: int = 64
    streams: int = 20


MODES: Final = {
    "quick": Mode("quick", Size(20, 60), 2.0, 3, (Paced(100, 3.0, 2),), 1.0, 1, 0, 0, windows=(6,)),
    "default": Mode("default", Size(100, 300), 2.0, 6, (Paced(100, 4.0, 4), Paced(500, 2.0, 3)), 2.0, 3, 3.0, 2),
    "full": Mode(
        "full",
        Size(1000, 3000),
        3.0,
        10,
        (Paced(50, 6.0, 4), Paced(100, 6.0, 8), Paced(200, 5.0, 4), Paced(500, 4.0, 4)),
        4.0,
        5,
        6.0,
        4,
        production=True,
    ),
}


class Unsound(Exception):
    """The figures can't be trusted; the message says why."""


@dataclass(slots=True)
class Subject:
    """What is measured: a process, and the requests that are sent to it."""

    name: str
    process: Process
    requests: Sequence[bytes]
    streams: Sequence[bytes]
    large: bytes
    installation: Installation | None = None


@dataclass(slots=True)
class Results:
    """Samples by phase, subject and round, in that order; and what was found at the end."""

    mode: Mode
    phases: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    resident_bytes: dict[str, int] = field(default_factory=dict)
    answers: int = 0
    ledgers: list[Written] = field(default_factory=list)


class Suite:
    """One run on an open stage."""

    def __init__(self, stage: Stage, mode: Mode, report: Report) -> None:
        self._stage = stage
        self._mode = mode
        self._report = report
        self._whole: dict[int, int] = {}
        self.results = Results(mode)

    async def run(self) -> Results:
        """Measure everything. Raises `Unsound`, and what the stage raises."""
        mode = self._mode
        subjects = await self._subjects()
        by_name = {subject.name: subject for subject in subjects}
        metered = [subject for subject in subjects if subject.installation is not None]
        direct, bare, whole = by_name[DIRECT], by_name[BARE], by_name[METERGATE]
        for subject in metered:
            await self._warm(subject)
        await self._phase(SATURATION, mode.saturation_rounds, [bare, *metered], self._saturate)
        await self._phase(f"{SATURATION}, no proxy", 1, [direct], self._saturate)
        for paced in mode.paced:
            await self._phase(f"{paced.rate}/s", paced.rounds, [direct, bare, whole], self._pacer(paced))
        await self._phase(STREAMS, mode.stream_rounds, [direct, bare, whole], self._stream)
        await self._phase(LARGE, mode.large_rounds, [direct, bare, whole], self._large)
        for subject in (bare, whole):
            self.results.resident_bytes[subject.name] = resident_bytes(subject.process.pid)
        await self._check(metered)
        return self.results

    async def _subjects(self) -> list[Subject]:
        stage, mode = self._stage, self._mode
        host, port = stage.upstream.address
        bare = stage.start(BARE, "benchmarks.bare", "--upstream", f"http://{host}:{port}", core=TARGET_CORE)
        self._report("Starting Metergate and writing its customers ...")
        own = await stage.metergate(mode.size, mode.windows, partitions=PARTITIONS)
        secrets = own.secrets[6]
        subjects = [_subject(DIRECT, stage.upstream, secrets), _subject(BARE, bare, secrets)]
        subjects += [
            _subject(f"metergate, {windows} windows", own.worker, own.secrets[windows], own)
            for windows in reversed(mode.windows)
        ]
        if mode.production:
            other = await stage.metergate(mode.size, (6,), partitions=PRODUCTION_PARTITIONS)
            subjects.append(_subject("metergate, 6 windows, 64 partitions", other.worker, other.secrets[6], other))
        return subjects

    async def _warm(self, subject: Subject) -> None:
        """Every key once: its principal is read, its state loaded into Redis."""
        self._report(f"Warming {subject.name}: {len(subject.requests)} keys ...")
        await self._turn(subject, lambda run: run.once(WARM_CONNECTIONS))

    async def _phase(
        self,
        name: str,
        rounds: int,
        subjects: Sequence[Subject],
        measure: Callable[[Subject], Awaitable[Sample]],
    ) -> None:
        samples: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
        for number in range(rounds):
            self._report(f"{name}: round {number + 1} of {rounds}")
            for subject in subjects if number % 2 == 0 else reversed(subjects):
                samples[subject.name].append(await measure(subject))
        if rounds:
            self.results.phases[name] = samples

    async def _turn(self, subject: Subject, work: Callable[[Run], Awaitable[Tally]]) -> tuple[Tally, Clocks]:
        """One subject's turn: its tally, and the CPU that was used while it was measured. Raises `Unsound`."""
        clocks: list[Clocks] = []

        def read() -> None:
            clocks.append(self._stage.clocks(subject.process.pid))

        gc.collect()
        gc.disable()
        try:
            tally = await work(Run(subject.process.address, subject.requests, read, read))
        finally:
            gc.enable()
        if tally.errors:
            raise Unsound(f"{subject.name}: {dict(tally.errors)}\n{subject.process.last_words()}")
        if not tally.measured:
            raise Unsound(f"{subject.name}: nothing was answered")
        self.results.answers += tally.whole
        pid = subject.process.pid
        self._whole[pid] = self._whole.get(pid, 0) + tally.whole
        return tally, clocks[1].since(clocks[0])

    async def _saturate(self, subject: Subject) -> Sample:
        mode = self._mode
        tally, used = await self._turn(
            subject, lambda run: run.saturate(mode.connections, mode.warm_s, mode.saturation_s)
        )
        return {**_costs(tally, used, tally.measured), "per_s": tally.measured / tally.measured_s}

    def _pacer(self, paced: Paced) -> Callable[[Subject], Awaitable[Sample]]:
        async def pace(subject: Subject) -> Sample:
            tally, used = await self._turn(
                subject, lambda run: run.pace(paced.rate, self._mode.warm_s, paced.measure_s)
            )
            return {**_costs(tally, used, tally.measured), **_latencies(tally)}

        return pace

    async def _stream(self, subject: Subject) -> Sample:
        async def work(run: Run) -> Tally:
            run = Run(run.address, subject.streams, run.on_begin, run.on_end)
            return await run.stream(self._mode.streams, self._mode.stream_s)

        tally, used = await self._turn(subject, work)
        first = tally.first_bytes_s
        return {
            **_costs(tally, used, tally.measured * wire.STREAM_CHUNKS),
            "ttfb_p50_ms": percentile(first, 0.5) * 1000,
            "ttfb_p99_ms": percentile(first, 0.99) * 1000,
        }

    async def _large(self, subject: Subject) -> Sample:
        tally, used = await self._turn(
            subject, lambda run: run.pace(LARGE_RATE, self._mode.warm_s, self._mode.large_s, subject.large)
        )
        return {**_costs(tally, used, tally.measured), **_latencies(tally)}

    async def _check(self, metered: Sequence[Subject]) -> None:
        """Answers, upstream and ledgers agree. Stops the workers. Raises `Unsound`."""
        given = sum((await asyncio.to_thread(self._stage.upstream_counts)).values())
        if given != self.results.answers:
            raise Unsound(f"clients got {self.results.answers} answers, the upstream gave {given}")
        for installation in {id(each.installation): each.installation for each in metered}.values():
            if installation is None:
                continue
            pid = installation.worker.pid
            code = await asyncio.to_thread(installation.worker.stop)
            if code:
                raise Unsound(f"Metergate ended with code {code}:\n{installation.worker.last_words()}")
            found = await written(installation.database_url)
            answers = self._whole[pid]
            wanted = Written(answers, answers, answers * wire.COST_NANO, 0, 0)
            if found != wanted:
                raise Unsound(f"the ledger holds {found}, clients' answers come to {wanted}")
            self.results.ledgers.append(found)


def _subject(name: str, process: Process, secrets: Sequence[str], installation: Installation | None = None) -> Subject:
    return Subject(
        name,
        process,
        [wire.request(secret) for secret in secrets],
        [wire.request(secret, stream=True) for secret in secrets],
        wire.request(secrets[0], prompt_bytes=LARGE_BYTES),
        installation,
    )


def _costs(tally: Tally, used: Clocks, pieces: int) -> Sample:
    """CPU microseconds a piece, of everybody; and how much of its core the target used."""
    scale = 1e6 / pieces
    return {
        "pieces": pieces,
        "cpu_us": used.target * scale,
        "redis_us": used.redis * scale,
        "postgres_us": used.postgres * scale,
        "upstream_us": used.upstream * scale,
        "generator_us": used.generator * scale,
        "utilisation": used.target / tally.measured_s,
    }


def _latencies(tally: Tally) -> Sample:
    return {
        "p50_ms": percentile(tally.latencies_s, 0.5) * 1000,
        "p99_ms": percentile(tally.latencies_s, 0.99) * 1000,
        "max_ms": max(tally.latencies_s) * 1000,
        "late_p99_ms": percentile(tally.late_s, 0.99) * 1000,
    }


CORES: Final = {"target": TARGET_CORE, "generator, upstream, Redis, Postgres": OTHER_CORE}
