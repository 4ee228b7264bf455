"""How long one page, or one read of the API, takes: by the clock, and in CPU time of the gateway and of Postgres."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from benchmarks.figures import percentile
from benchmarks.process import Process
from benchmarks.stage import Stage
from benchmarks.subjects import Report, Sample, Unsound
from benchmarks.tables import table

LOOKS: Final = 15

# Returns milliseconds, status and bytes of what stands at a path.
Look = Callable[[str], Awaitable[tuple[float, int, int]]]


@dataclass(slots=True)
class Looked:
    """How long a page took, in milliseconds, each time, how large it is, and the CPU of the gateway and of Postgres
    that one look took, in milliseconds."""

    who: str
    path: str
    took_ms: list[float] = field(default_factory=list)
    gateway_ms: float = 0.0
    postgres_ms: float = 0.0
    bytes: int = 0
    status: int = 0

    @property
    def median_ms(self) -> float:
        """Return the median of the looks by the clock."""
        return percentile(self.took_ms, 0.5)

    async def measure(self, stage: Stage, worker: Process, look: Look, report: Report) -> None:
        """Look `LOOKS` times, after once that is not counted. Raises `Unsound` where it is not shown."""
        await look(self.path)
        before = stage.clocks(worker)
        for _ in range(LOOKS):
            took_ms, self.status, self.bytes = await look(self.path)
            self.took_ms.append(took_ms)
        if self.status != 200:
            raise Unsound(f"{self.path} ({self.who}) is answered {self.status}\n{worker.last_words()}")
        spent = stage.clocks(worker).since(before)
        self.gateway_ms, self.postgres_ms = (1000 * cpu / LOOKS for cpu in (spent.target, spent.postgres))
        cpu = f"{self.gateway_ms:.0f} + {self.postgres_ms:.0f} ms of CPU"
        report(f"{self.path} ({self.who}) {self.median_ms:.0f} ms, {cpu}")


def slowest(looked: list[Looked], report: Report) -> Sample:
    """Return the median of what takes longest, and the CPU of one look at it, in milliseconds."""
    last = max(looked, key=lambda each: each.median_ms)
    report(f"the slowest is {last.path} ({last.who})")
    return {"slowest_ms": last.median_ms, "cpu_ms": last.gateway_ms + last.postgres_ms}


def lines(what: str, looked: list[Looked]) -> list[str]:
    """Return a table in Markdown, what takes longest first."""
    rows = []
    for each in sorted(looked, key=lambda each: -each.median_ms):
        took = (f"{percentile(each.took_ms, share):.0f}" for share in (0.5, 0.99))
        cpu = f"{each.gateway_ms:.0f}", f"{each.postgres_ms:.0f}"
        rows.append((f"{each.path} ({each.who})", *took, *cpu, f"{each.bytes / 1000:.0f}"))
    return table((what, "median ms", f"slowest of {LOOKS}", "gateway's CPU ms", "Postgres's", "kB"), rows)
