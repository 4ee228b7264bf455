"""What a request costs in instructions, counted by callgrind: the same on a busy machine as on a quiet one.

    python -m benchmarks instructions [--requests N]

Of each kind of request so many are sent over CONNECTIONS connections, once to bare and once to a worker, each under
valgrind; what a process does meanwhile without requests is measured before, and taken off. The kernel's part is not
among them: `make bench` has that, in time. Between two commits: run it in a worktree of each.
"""

import asyncio
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import instructed, wire
from benchmarks.apis import APIS
from benchmarks.connection import CHAT, Shape
from benchmarks.load import Run
from benchmarks.machine import TARGET_CORE
from benchmarks.modes import Mode
from benchmarks.process import Process
from benchmarks.stage import Stage, open_stage
from benchmarks.subjects import BARE, Report, Unsound
from benchmarks.suite import PARTITIONS
from benchmarks.tables import table

CONNECTIONS: Final = 4
WARM_REQUESTS: Final = 240
REQUESTS: Final = 240
IDLE_S: Final = 10.0
# A request that comes before its connection has been taken goes another way, and so do those that follow at once.
SETTLE_S: Final = 1.0
TELL_S: Final = 60.0
# A process is some fifty times slower there, and must not take that for a silence of Redis.
PATIENT: Final = {"redis_timeout_ms": 60_000, "settle_timeout_ms": 60_000, "lease_s": 60}
_TOTALS: Final = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)

# Requests by kind, what streams among them look like, and how many events one has.
Kinds = dict[str, tuple[list[bytes], Shape | None, int]]


class Counter:
    """Counts instructions of a process that runs under `instructed`."""

    def __init__(self, process: Process, folder: Path) -> None:
        self._pid = process.popen.pid
        self._folder = folder
        self._dumps = 0
        self._begun_s = 0.0
        self.idle_per_s = 0.0

    def _tell(self, *words: str) -> None:
        command = ("callgrind_control", *words, str(self._pid))
        subprocess.run(command, check=True, capture_output=True, timeout=TELL_S)

    def begin(self) -> None:
        """Count from now on."""
        self._tell("--instr=on")
        self._tell("--zero")
        self._begun_s = time.monotonic()

    def end(self) -> float:
        """Return the instructions since `begin`, less those of an idle process. Raises `Unsound` without a count."""
        took_s = time.monotonic() - self._begun_s
        self._tell("--dump")
        self._tell("--instr=off")
        self._dumps += 1
        found = _TOTALS.search((self._folder / f"callgrind.{self._pid}.{self._dumps}").read_text())
        if found is None:
            raise Unsound("callgrind wrote no total")
        return int(found[1]) - self.idle_per_s * took_s


def kinds(secrets: Sequence[str]) -> Kinds:
    """Return what is counted, with one request of each key."""
    found: Kinds = {
        "JSON": ([wire.request(secret) for secret in secrets], None, 1),
        "chat stream": ([wire.request(secret, burst=True) for secret in secrets], CHAT, wire.BURST_CHUNKS),
    }
    for api in APIS:
        found[f"{api.name} stream"] = [api.request(secret) for secret in secrets], api.shape, len(api.events)
    return found


async def count(mode: Mode, requests: int, report: Report) -> str:
    """Return the table of all kinds. Raises `Unsound`."""
    async with open_stage() as stage:
        installation = await stage.install(mode.size, (6,), partitions=PARTITIONS, defaults=PATIENT)
        asked = kinds(installation.secrets[6])
        under = (instructed.__name__, str(stage.folder))
        bare = stage.start(BARE, *under, "benchmarks.bare", "--upstream", stage.upstream_url, core=TARGET_CORE)
        await bare.until(lambda: bare.answers("/count"))
        passed = await _counted(stage, bare, asked, requests, report)
        bare.stop()
        worker = await stage.worker(installation, "metergate", (*under, "gateway.process.worker"))
        metered = await _counted(stage, worker, asked, requests, report)
        worker.stop()
    return "\n".join(_table(asked, passed, metered))


async def _counted(stage: Stage, process: Process, asked: Kinds, requests: int, report: Report) -> dict[str, float]:
    """Return the instructions of one request of each kind."""
    counter, found = Counter(process, stage.folder), dict[str, float]()
    for name, (each, shape, _) in asked.items():
        report(f"{process.name}: {name}")
        await _send(process, [each[at % len(each)] for at in range(WARM_REQUESTS if not found else len(each))], shape)
        if not found:
            counter.begin()
            await asyncio.sleep(IDLE_S)
            counter.idle_per_s = counter.end() / IDLE_S
        counter.begin()
        await _send(process, [each[at % len(each)] for at in range(requests)], shape)
        found[name] = counter.end() / requests
    return found


async def _send(process: Process, requests: list[bytes], shape: Shape | None) -> None:
    run = Run(process.address, requests, streaming=shape is not None, shape=shape or CHAT, settle_s=SETTLE_S)
    tally = await run.once(CONNECTIONS)
    if tally.errors:
        raise Unsound(f"{process.name}: {dict(tally.errors)}\n{process.last_words()}")


def _table(asked: Kinds, passed: dict[str, float], metered: dict[str, float]) -> list[str]:
    """Thousands of instructions; of an event with its share of the request, and what it adds to a JSON request. The
    last column compares an event with a chat's, share included."""
    head = ("kind", "bare", "metergate", "of bare", "an event", "an event adds", "of a chat's")
    chat = metered["chat stream"] / wire.BURST_CHUNKS
    rows = []
    for name, (_, shape, events) in asked.items():
        own, adds = metered[name], (metered[name] - metered["JSON"]) / events
        more = (f"{own / events / 1e3:.1f}", f"{adds / 1e3:.1f}", f"{own / events / chat:.2f}") if shape else ("",) * 3
        rows.append((name, f"{passed[name] / 1e3:,.0f}", f"{own / 1e3:,.0f}", f"{own / passed[name]:.2f}", *more))
    return table(head, rows)
