"""What a request costs in instructions, counted by callgrind: the same on a busy machine as on a quiet one.

    python -m benchmarks instructions [--requests N] [--kinds JSON,...]

Of each kind of request so many are sent over CONNECTIONS connections, once to bare and once to a worker, each under
valgrind, on a clock that is as slow as they are (`benchmarks.instructed`). A count ends when the debits of its requests
are in the ledger, all of them in one batch; what a process does meanwhile without requests is measured before, and
taken off. The kernel's part is not among them: `make bench` has that, in time. Between two commits: run it in a
worktree of each.
"""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import asyncpg

from benchmarks import instructed, wire
from benchmarks.apis import APIS
from benchmarks.connection import CHAT, Shape
from benchmarks.installation import Installation
from benchmarks.load import Run
from benchmarks.machine import TARGET_CORE
from benchmarks.modes import Mode
from benchmarks.process import Process, StageError
from benchmarks.stage import open_stage
from benchmarks.subjects import BARE, Report, Unsound
from benchmarks.suite import PARTITIONS
from benchmarks.tables import table

# As many as share a call of Redis where a worker is busy.
CONNECTIONS: Final = 16
WARM_REQUESTS: Final = 480
REQUESTS: Final = 240
IDLE_S: Final = 10.0
SETTLE_S: Final = 1.0
TELL_S: Final = 120.0
# The time for the journal to forget what the ledger has.
ACKNOWLEDGE_S: Final = 1.0
WRITTEN: Final = "SELECT count(*) FROM usage_events"
WRITTEN_WITHIN_S: Final = 60.0
# A process that is so slow must not take that for a silence of Redis.
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

    @property
    def dump(self) -> Path:
        """The file of the last count."""
        return self._folder / f"callgrind.{self._pid}.{self._dumps}"

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
        found = _TOTALS.search(self.dump.read_text())
        if found is None:
            raise Unsound("callgrind wrote no total")
        return int(found[1]) - self.idle_per_s * took_s


def kinds(secrets: Sequence[str]) -> Kinds:
    """Return what is counted, with one request of each key."""
    found: Kinds = {
        "JSON": ([wire.request(secret) for secret in secrets], None, 1),
        "chat stream": ([wire.request(secret, user="burst") for secret in secrets], CHAT, wire.BURST_CHUNKS),
    }
    for api in APIS:
        found[f"{api.name} stream"] = [api.request(secret) for secret in secrets], api.shape, len(api.events)
    paced = [wire.request(secret, stream=True) for secret in secrets]
    return {**found, "paced chat stream": (paced, CHAT, wire.BURST_CHUNKS)}


def only(asked: Kinds, names: str | None) -> Kinds:
    """Return the kinds of these names. Raises `Unsound` for a name that there is not."""
    chosen = names.split(",") if names else list(asked)
    if unknown := [name for name in chosen if name not in asked]:
        raise Unsound(f"there is no kind {unknown[0]!r}: {', '.join(asked)}")
    return {name: asked[name] for name in chosen}


async def count(mode: Mode, requests: int, names: str | None, report: Report) -> str:
    """Return the table of all kinds, or of those named. Raises `Unsound`."""
    async with open_stage() as stage:
        installation = await stage.install(mode.size, (6,), partitions=PARTITIONS, defaults=PATIENT)
        asked = only(kinds(installation.secrets[6]), names)
        under = (instructed.__name__, str(stage.folder))
        bare = stage.start(BARE, *under, "benchmarks.bare", "--upstream", stage.upstream_url, core=TARGET_CORE)
        await bare.until(lambda: bare.answers("/count"))
        passed = await counted(Counter(bare, stage.folder), bare, asked, requests, report)
        bare.stop()
        worker = await stage.worker(installation, "metergate", (*under, "gateway.app"))
        metered = await counted(
            Counter(worker, stage.folder), worker, asked, requests, report, written=Written(installation).all
        )
        worker.stop()
    return "\n".join(_table(asked, passed, metered))


async def _nothing(_: int) -> None:
    """Bare writes nothing."""


class Written:
    """Waits for the debits of an installation's requests."""

    def __init__(self, installation: Installation) -> None:
        self._url = installation.database_url
        self._expected = 0

    async def all(self, more: int) -> None:
        """Wait until the ledger has so many more debits, and the journal has forgotten them."""
        self._expected += more
        connection = await asyncpg.connect(self._url)
        deadline = time.monotonic() + WRITTEN_WITHIN_S
        try:
            while await connection.fetchval(WRITTEN) < self._expected:
                if time.monotonic() > deadline:
                    raise StageError("the debits were not written in time")
                await asyncio.sleep(0.1)
        finally:
            await connection.close()
        await asyncio.sleep(ACKNOWLEDGE_S)


async def counted(
    counter: Counter,
    process: Process,
    asked: Kinds,
    requests: int,
    report: Report,
    *,
    written: Callable[[int], Awaitable[None]] = _nothing,
    each_counted: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Return the instructions of one request of each kind. `written` waits for what requests leave behind;
    `each_counted` is called once a kind was counted."""
    found = dict[str, float]()
    for name, (each, shape, _) in asked.items():
        report(f"{process.name}: {name}")
        warm = WARM_REQUESTS if not found else len(each)
        await _send(process, [each[at % len(each)] for at in range(warm)], shape)
        await written(warm)
        if not found:
            os.kill(process.popen.pid, signal.SIGUSR1)
            await asyncio.sleep(SETTLE_S)
            counter.begin()
            await asyncio.sleep(IDLE_S)
            counter.idle_per_s = counter.end() / IDLE_S
        counter.begin()
        await _send(process, [each[at % len(each)] for at in range(requests)], shape)
        await written(requests)
        found[name] = counter.end() / requests
        each_counted(name)
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
    rows = []
    for name, (_, shape, events) in asked.items():
        own = metered[name]
        adds = f"{(own - metered['JSON']) / events / 1e3:.1f}" if "JSON" in metered else ""
        of_chat = f"{own / events / metered['chat stream'] * wire.BURST_CHUNKS:.2f}" if "chat stream" in metered else ""
        more = (f"{own / events / 1e3:.1f}", adds, of_chat) if shape else ("",) * 3
        rows.append((name, f"{passed[name] / 1e3:,.0f}", f"{own / 1e3:,.0f}", f"{own / passed[name]:.2f}", *more))
    return table(head, rows)
