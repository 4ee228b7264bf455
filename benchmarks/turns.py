"""One subject's turn of each kind: what is sent, and what is read of clocks, latencies and memory meanwhile."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from benchmarks import wire
from benchmarks.apis import Api
from benchmarks.connection import LONG, Tally
from benchmarks.figures import percentile
from benchmarks.load import Run
from benchmarks.machine import cpu_s, own_share_bytes, resident_bytes
from benchmarks.modes import Mode
from benchmarks.process import Process
from benchmarks.stage import Clocks, Stage
from benchmarks.subjects import PROMPT_BYTES, Results, Sample, Subject, Unsound, costs, first_bytes, latencies

COUNTED_RATE: Final = 100
PROMPT_CONNECTIONS: Final = 16
WARM_CONNECTIONS: Final = 16
BURST_CONNECTIONS: Final = 16
CROWD_BEGUN_PER_S: Final = 250.0
CLOSED_AT_ONCE: Final = 16
LONG_STREAMS: Final = 20
CLOSE: Final = b"\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Turn:
    """Gives one subject after the other its turn, and keeps count of every answer."""

    stage: Stage
    mode: Mode
    results: Results
    given: dict[str, int] = field(default_factory=dict)

    async def run(
        self, subject: Subject, requests: list[bytes], work: Callable[[Run], Awaitable[Tally]]
    ) -> tuple[Tally, Clocks]:
        """Its tally, and the CPU that was used while it was measured. Raises `Unsound`."""
        clocks: list[Clocks] = []

        def read() -> None:
            clocks.append(self.stage.clocks(subject.process))

        gc.collect()
        gc.disable()
        try:
            tally = await work(Run(subject.process.address, requests, read, read, exact=subject.exact))
        finally:
            gc.enable()
        if tally.errors:
            raise Unsound(f"{subject.name}: {dict(tally.errors)}\n{subject.process.last_words()}")
        if not tally.measured:
            raise Unsound(f"{subject.name}: nothing was answered")
        self.results.answers += tally.whole
        if subject.installation is not None:
            subject.installation.answers += tally.whole
        return tally, clocks[1].since(clocks[0])

    async def warm(self, subject: Subject) -> None:
        """Every key once: its principal is read, its state loaded into Redis."""
        await self.run(subject, subject.requests(), lambda run: run.once(WARM_CONNECTIONS))

    async def saturate(self, subject: Subject) -> Sample:
        """As many requests as it serves."""
        return await self.saturate_with(subject, self.mode.connections, self.mode.saturation.measure_s)

    async def saturate_with(
        self, subject: Subject, connections: int, measure_s: float, prompt_bytes: int = 0
    ) -> Sample:
        """The same with so many connections, for so long. `busiest_us` is the CPU of its busiest worker, over all
        requests; `busiest_share` that worker's part of the CPU of all."""
        requests = subject.requests(prompt_bytes=prompt_bytes)
        tally, used = await self.run(
            subject, requests, lambda run: run.saturate(connections, self.mode.warm_s, measure_s)
        )
        busiest = max(used.workers)
        sample = costs(tally, used, tally.measured)
        return {**sample, "busiest_us": busiest * 1e6 / tally.measured, "busiest_share": busiest / used.target}

    async def prompt(self, subject: Subject) -> Sample:
        """As many requests with a long prompt as it serves."""
        return await self.saturate_with(subject, PROMPT_CONNECTIONS, self.mode.prompts.measure_s, PROMPT_BYTES)

    def pacer(self, rate: int, measure_s: float) -> Callable[[Subject], Awaitable[Sample]]:
        """Requests at a fixed rate."""

        async def pace(subject: Subject) -> Sample:
            tally, used = await self.run(
                subject, subject.requests(), lambda run: run.pace(rate, self.mode.warm_s, measure_s)
            )
            return {**costs(tally, used, tally.measured), **latencies(tally)}

        return pace

    async def stream(self, subject: Subject) -> Sample:
        """A few paced streams at once, again and again. CPU is of one chunk, its share of the request included."""

        async def work(run: Run) -> Tally:
            run.streaming = True
            return await run.stream(self.mode.streams_at_once, self.mode.streams.measure_s)

        tally, used = await self.run(subject, subject.requests(stream=True), work)
        return {**costs(tally, used, tally.measured * wire.STREAM_CHUNKS), **first_bytes(tally)}

    async def burst(self, subject: Subject) -> Sample:
        """As many streams as it passes on, each of which comes at once. CPU is of one chunk, as with `stream`."""

        async def work(run: Run) -> Tally:
            run.streaming = True
            return await run.saturate(BURST_CONNECTIONS, self.mode.warm_s, self.mode.bursts.measure_s)

        tally, used = await self.run(subject, subject.requests(user="burst"), work)
        return costs(tally, used, tally.measured * wire.BURST_CHUNKS)

    def burster(self, api: Api) -> Callable[[Subject], Awaitable[Sample]]:
        """As `burst`, with another API's streams; CPU is of one event."""

        async def burst(subject: Subject) -> Sample:
            async def work(run: Run) -> Tally:
                run.streaming, run.shape = True, api.shape
                return await run.saturate(BURST_CONNECTIONS, self.mode.warm_s, self.mode.bursts.measure_s)

            tally, used = await self.run(subject, subject.asks(api), work)
            return costs(tally, used, tally.measured * len(api.events))

        return burst

    async def counted(self, subject: Subject) -> Sample:
        """Small requests at a fixed rate, first by themselves and then with large prompts beside them that have to be
        counted: how much longer the small ones take."""
        warm_s, measure_s = self.mode.warm_s, self.mode.counted.measure_s
        big = subject.counted()
        alone, _ = await self.run(subject, subject.requests(), lambda run: run.pace(COUNTED_RATE, warm_s, measure_s))
        tally, used = await self.run(
            subject, subject.requests(), lambda run: run.pace(COUNTED_RATE, warm_s, measure_s, big)
        )
        if not tally.beside_s:
            raise Unsound(f"{subject.name}: no large prompt was answered")
        before, after = latencies(alone), latencies(tally)
        return {
            **costs(tally, used, tally.measured),
            **after,
            **{f"alone_{name}": before[name] for name in ("p50_ms", "p99_ms", "max_ms")},
            **{f"added_{name}": after[name] - before[name] for name in ("p50_ms", "p99_ms", "max_ms")},
            "prompts": len(tally.beside_s),
            "prompt_p50_ms": percentile(tally.beside_s, 0.5) * 1000,
        }

    async def crowd(self, subject: Subject) -> Sample:
        """Thousands of slow streams at once: what the target's resident memory grows by, of one stream."""
        streams = self.mode.crowd_streams
        memory: list[int] = []

        def weigh() -> None:
            memory.append(self._resident(subject))

        async def work(run: Run) -> Tally:
            run.most_connections = streams
            weigh()
            return await run.crowd(streams, CROWD_BEGUN_PER_S, weigh)

        tally, used = await self.run(subject, subject.requests(user="slow")[:streams], work)
        weigh()
        before, full, after = memory
        return {
            **costs(tally, used, tally.measured * wire.STREAM_CHUNKS),
            **first_bytes(tally),
            "streams": streams,
            "before_mb": before / 1e6,
            "full_mb": full / 1e6,
            "after_mb": after / 1e6,
            "kb_a_stream": (full - before) / 1e3 / streams,
        }

    async def closed(self, subject: Subject) -> Sample:
        """As `saturate`, with a connection for each request."""
        warm_s, measure_s = self.mode.warm_s, self.mode.closed.measure_s
        requests = [request.replace(b"\r\n\r\n", CLOSE, 1) for request in subject.requests()]
        tally, used = await self.run(subject, requests, lambda run: run.one_each(CLOSED_AT_ONCE, warm_s, measure_s))
        return costs(tally, used, tally.measured)

    async def long(self, subject: Subject) -> Sample:
        """Streams of 2,000 events: what the target's resident memory grows by until the end of one."""
        memory = [self._resident(subject)]

        async def work(run: Run) -> Tally:
            run.streaming, run.shape = True, LONG
            return await run.long(LONG_STREAMS, lambda: memory.append(self._resident(subject)))

        tally, used = await self.run(subject, subject.requests(user="long")[:LONG_STREAMS], work)
        before, full = memory
        cpu_us = used.target * 1e6 / (tally.measured * wire.LONG_EVENTS)
        return {"kb_a_stream": (full - before) / 1e3 / LONG_STREAMS, "cpu_us": cpu_us}

    async def idle(self, process: Process, measure_s: float) -> Sample:
        """A process that has served nothing yet: its memory, and the CPU that it uses without requests."""
        fresh_mb = max(map(resident_bytes, process.workers)) / 1e6
        await asyncio.sleep(measure_s / 4)
        used, began = sum(map(cpu_s, process.workers)), time.perf_counter()
        await asyncio.sleep(measure_s)
        used = sum(map(cpu_s, process.workers)) - used
        return {"fresh_mb": fresh_mb, "idle_ms_per_s": used * 1e3 / (time.perf_counter() - began)}

    @staticmethod
    def _resident(subject: Subject) -> int:
        return sum(map(resident_bytes, subject.process.workers))

    def memory(self, subject: Subject) -> Sample:
        """Resident memory of its largest worker; `own_mb` counts shared pages by their share."""
        workers = subject.process.workers
        return {
            "resident_mb": max(map(resident_bytes, workers)) / 1e6,
            "own_mb": max(map(own_share_bytes, workers)) / 1e6,
        }
