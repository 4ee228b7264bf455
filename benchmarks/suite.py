"""The phases of a run: who is measured against whom, in which order.

In every round each subject gets a short turn, and every other round goes the opposite way round, so that what the
machine does meanwhile hits all of them alike. Ratios are taken within a round. At the end everything is counted up:
what clients got, what the upstream gave, what the ledger holds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from benchmarks import commands, console, peers, wire
from benchmarks.apis import APIS
from benchmarks.goals import ONE_WORKER, TWICE_CONNECTIONS, TWO_WORKERS
from benchmarks.installation import Installation
from benchmarks.ledger_rate import LedgerRate
from benchmarks.machine import OTHER_CORE, TARGET_CORE
from benchmarks.modes import Mode
from benchmarks.process import Process
from benchmarks.seed import Written, written
from benchmarks.service_rate import ServiceRate
from benchmarks.stage import Stage
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
    NGINX,
    PAGES,
    PROMPTS,
    SATURATION,
    SERVES,
    SERVICE,
    SERVICE_DEBITS,
    SERVICE_USAGE,
    STARTS,
    STREAMS,
    UNPROXIED,
    WORKERS,
    Report,
    Results,
    Sample,
    Subject,
    Unsound,
)
from benchmarks.turns import Turn

PARTITIONS: Final = 1
PRODUCTION_PARTITIONS: Final = 64
# Requests of a key, after which all is here that is kept of it.
KEPT_AFTER: Final = 3
CORES: Final = {"target": TARGET_CORE, "generator, upstream, Redis, Postgres": OTHER_CORE}


class Suite:
    """One run on an open stage. `targets` are optional peers by name."""

    def __init__(self, stage: Stage, mode: Mode, report: Report, targets: Sequence[str] = ()) -> None:
        self._stage = stage
        self._mode = mode
        self._report = report
        self._targets = targets
        self._installations: list[tuple[Installation, list[Process]]] = []
        self.results = Results(mode)
        self._turn = Turn(stage, mode, self.results)

    async def run(self) -> Results:
        """Measure everything. Raises `Unsound`, and what the stage raises."""
        mode, turn = self._mode, self._turn
        metered = await self._metered()
        bare, direct, whole = self._bare(BARE), self._direct(metered[0].secrets), metered[0]
        passing = [bare, *await self._peers()]
        for subject in (*passing[1:], *metered):
            self._report(f"Warming {subject.name}: {len(subject.secrets)} keys ...")
            await turn.warm(subject)
        await self._phase(SATURATION, mode.saturation.rounds, [*passing, *metered], turn.saturate)
        self.results.phases[MEMORY] = {subject.name: [turn.memory(subject)] for subject in (bare, whole)}
        if mode.saturation:
            await self._phase(UNPROXIED, 1, [direct], turn.saturate)
        exact = [subject for subject in passing if subject.exact]
        for rate, turns in mode.paced.items():
            pace = turn.pacer(rate, turns.measure_s)
            await self._phase(f"{rate}/s", turns.rounds, [direct, *exact, whole], pace)
        await self._phase(STREAMS, mode.streams.rounds, [direct, *exact, whole], turn.stream)
        await self._phase(BURSTS, mode.bursts.rounds, [*exact, whole], turn.burst)
        for api in APIS:
            await self._phase(API_BURSTS[api.name], mode.bursts.rounds, [bare, whole], turn.burster(api))
        await self._phase(CLOSED, mode.closed.rounds, [bare, whole], turn.closed)
        await self._phase(PROMPTS, mode.prompts.rounds, [*exact, whole], turn.prompt)
        await self._phase(COUNTED, mode.counted.rounds, [bare, whole], turn.counted)
        if mode.crowd:
            await self._crowd(whole)
        if mode.long or mode.idle:
            await self._fresh(whole)
        if mode.starts:
            await self._starts()
        if mode.workers:
            await self._workers(whole)
        if mode.ledger:
            await self._ledger()
        if mode.service:
            await self._service()
        if mode.commands:
            await asyncio.to_thread(self._commands)
        if mode.pages:
            self.results.phases[PAGES] = await console.small(self._stage, self._report)
        await self._check()
        return self.results

    def _direct(self, secrets: Sequence[str]) -> Subject:
        return Subject(DIRECT, self._stage.upstream, secrets)

    def _bare(self, name: str) -> Subject:
        url = self._stage.upstream_url
        process = self._stage.start(name, "benchmarks.bare", "--upstream", url, core=TARGET_CORE)
        return Subject(BARE, process, self._installations[0][0].secrets[6])

    async def _metered(self) -> list[Subject]:
        """Metergate with each number of windows, the most first; they share a worker."""
        mode = self._mode
        self._report("Starting Metergate and writing its customers ...")
        own, worker = await self._started("metergate", PARTITIONS, mode.windows)
        subjects = [
            Subject(f"metergate, {windows} windows", worker, own.secrets[windows], own)
            for windows in sorted(mode.windows, reverse=True)
        ]
        assert subjects[0].name == METERGATE
        if mode.production:
            other, worker = await self._started("metergate64", PRODUCTION_PARTITIONS, (6,))
            subjects.append(Subject("metergate, 6 windows, 64 partitions", worker, other.secrets[6], other))
        return subjects

    async def _started(self, name: str, partitions: int, windows: Sequence[int]) -> tuple[Installation, Process]:
        installation = await self._stage.install(self._mode.size, windows, partitions=partitions)
        worker = await self._stage.worker(installation, name)
        self._installations.append((installation, [worker]))
        return installation, worker

    async def _peers(self) -> list[Subject]:
        """nginx where it is installed, and the optional targets that were asked for."""
        found: list[Subject] = []
        for name in (*((NGINX,) if self._mode.nginx else ()), *self._targets):
            try:
                peer = await peers.start(name, self._stage, self._report)
            except peers.Missing as missing:
                self.results.skipped[name] = str(missing)
                self._report(f"{name} is left out: {missing}")
                continue
            if not peer.exact:
                self.results.rewritten.append(name)
            secrets = [peer.secret] if peer.secret else self._installations[0][0].secrets[6]
            found.append(Subject(name, peer.process, secrets, exact=peer.exact, headers=peer.headers))
        return found

    async def _phase(
        self, name: str, rounds: int, subjects: Sequence[Subject], measure: Callable[[Subject], Awaitable[Sample]]
    ) -> None:
        samples: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
        for number in range(rounds):
            self._report(f"{name}: round {number + 1} of {rounds}")
            for subject in subjects if number % 2 == 0 else reversed(subjects):
                samples[subject.name].append(await measure(subject))
        if rounds:
            self.results.phases[name] = samples

    async def _crowd(self, whole: Subject) -> None:
        """On processes that are as good as new: memory that earlier phases have left free would hide what is needed."""
        samples: dict[str, list[Sample]] = {BARE: [], METERGATE: []}
        for number in range(self._mode.crowd.rounds):
            self._report(f"{CROWD}: round {number + 1} of {self._mode.crowd.rounds}")
            fresh = self._bare(f"bare crowd{number}")
            samples[BARE].append(await self._crowded(fresh))
            installation, workers = self._installations[0]
            worker = await self._stage.worker(installation, f"metergate crowd{number}")
            workers.append(worker)
            samples[METERGATE].append(await self._crowded(Subject(METERGATE, worker, whole.secrets, installation)))
        self.results.phases[CROWD] = samples

    async def _fresh(self, whole: Subject) -> None:
        """On workers that are as good as new: at rest first, then with long streams."""
        at_rest: list[Sample] = []
        long: list[Sample] = []
        installation, workers = self._installations[0]
        for number in range(max(self._mode.long.rounds, self._mode.idle.rounds)):
            self._report(f"{IDLE}, {LONG}: round {number + 1}")
            worker = await self._stage.worker(installation, f"metergate fresh{number}")
            workers.append(worker)
            if number < self._mode.idle.rounds:
                at_rest.append(await self._turn.idle(worker, self._mode.idle.measure_s))
            if number < self._mode.long.rounds:
                fresh = Subject(METERGATE, worker, whole.secrets, installation)
                await self._turn.warm(fresh)
                long.append(await self._turn.long(fresh))
            await asyncio.to_thread(self._stop, worker)
        found = {IDLE: at_rest, LONG: long}
        self.results.phases |= {phase: {METERGATE: samples} for phase, samples in found.items() if samples}

    async def _starts(self) -> None:
        """`metergate serve` with one worker on stores that run, from its start to its first answer."""
        samples: list[Sample] = []
        installation, processes = self._installations[0]
        for number in range(self._mode.starts.rounds):
            self._report(f"{SERVES}: round {number + 1} of {self._mode.starts.rounds}")
            began = time.perf_counter()
            serving = await self._stage.serve(installation, 1)
            samples.append({"wall_s": serving.ready_s - began})
            processes.append(serving)
            await asyncio.to_thread(self._stop, serving)
        self.results.phases[SERVES] = {METERGATE: samples}

    async def _crowded(self, fresh: Subject) -> Sample:
        for _ in range(KEPT_AFTER):  # what is kept of a key is not a stream's
            await self._turn.warm(fresh)
        sample = await self._turn.crowd(fresh)
        await asyncio.to_thread(self._stop, fresh.process)
        return sample

    async def _workers(self, whole: Subject) -> None:
        """One worker and two on the same core, in turns: what a request costs each of them, not how fast they are."""
        installation, processes = self._installations[0]
        self._report(f"{WORKERS}: starting them ...")
        one, two = [await self._stage.serve(installation, number) for number in (1, 2)]
        processes += [one, two]
        subjects = {
            ONE_WORKER: Subject(ONE_WORKER, one, whole.secrets, installation),
            TWO_WORKERS: Subject(TWO_WORKERS, two, whole.secrets, installation),
            TWICE_CONNECTIONS: Subject(TWICE_CONNECTIONS, two, whole.secrets, installation),
        }
        for name in (ONE_WORKER, TWO_WORKERS):
            await self._turn.warm(subjects[name])

        async def measure(subject: Subject) -> Sample:
            connections = self._mode.connections * (2 if subject.name == TWICE_CONNECTIONS else 1)
            return await self._turn.saturate_with(subject, connections, self._mode.workers.measure_s)

        await self._phase(WORKERS, self._mode.workers.rounds, list(subjects.values()), measure)

    async def _ledger(self) -> None:
        rate = LedgerRate(self._stage, self._mode.size)
        await rate.open()
        samples = []
        for number in range(self._mode.ledger.rounds):
            self._report(f"{LEDGER}: round {number + 1} of {self._mode.ledger.rounds}")
            samples.append(await rate.measure(self._mode.ledger_rows))
        self.results.ledger_rows = (await rate.close()).events
        self.results.phases[LEDGER] = {LEDGER: samples}

    async def _service(self) -> None:
        rate, turns = ServiceRate(self._stage, self._mode.size), self._mode.service
        await rate.open()
        samples: dict[str, list[Sample]] = {SERVICE_DEBITS: [], SERVICE_USAGE: []}
        for number in range(turns.rounds):
            self._report(f"{SERVICE}: round {number + 1} of {turns.rounds}")
            samples[SERVICE_DEBITS].append(await rate.debits(self._mode.warm_s, turns.measure_s))
            samples[SERVICE_USAGE].append(await rate.usage(self._mode.warm_s, turns.measure_s))
        self.results.service_events = await rate.close()
        self.results.phases[SERVICE] = samples

    def _commands(self) -> None:
        """When everything else stands still."""
        samples: dict[str, list[Sample]] = {command: [] for command in commands.COMMANDS}
        self._report(f"{STARTS}: {self._mode.commands.rounds} rounds")
        with commands.running_up() as env:
            for _ in range(self._mode.commands.rounds):
                for command, found in samples.items():
                    found.append(commands.measure(command, env))
        self.results.phases[STARTS] = samples

    def _stop(self, process: Process) -> None:
        code = process.stop()
        if code:
            raise Unsound(f"{process.name} ended with code {code}:\n{process.last_words()}")

    async def _check(self) -> None:
        """Answers, upstream and ledgers agree. Stops the workers. Raises `Unsound`."""
        given = sum((await asyncio.to_thread(self._stage.upstream_counts)).values())
        if given != self.results.answers:
            raise Unsound(f"clients got {self.results.answers} answers, the upstream gave {given}")
        for installation, processes in self._installations:
            for process in processes:
                await asyncio.to_thread(self._stop, process)
            found = await written(installation.database_url)
            answers = installation.answers
            wanted = Written(answers, answers, answers * wire.COST_NANO, 0, 0)
            if found != wanted:
                raise Unsound(f"the ledger holds {found}, clients' answers come to {wanted}")
            self.results.ledgers.append(found)
