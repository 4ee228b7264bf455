"""How much others wait for a crowd: `python -m tests.chaos.crowd_figures [TIMES]` prints the table.

One and two workers, at the shipped bounds and at what 1,024 descriptors leave, `times` crowds each. A probe asks at a
fixed rate, half of its requests on connections of their own, before the crowd and meanwhile; a late request is late
from the moment when it was due. It has a process of its own.

The figure is to be the gateway's, and not that of a machine that it shares with its load. All workers have one
processor to themselves, so that two of them have no more than one; the probe, the crowd, the provider and the stores
have the others. What a worker does beside a request, and waits for, counts in full. On a machine with one processor
nothing is separated.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import msgspec
import psutil

from tests.chaos.crowds import DEFAULTS_OF_FEW
from tests.chaos.harness import Stack, running
from tests.chaos.places import ROOT
from tests.chaos.plan import Plan

PER_S = 50
BEFORE_S = 10.0
WARM_S = 3.0
# Connections of the probe that stay open.
KEPT = 32
GIVE_UP_S = 10.0
# The probe's niceness, where this process may give it.
HURRY = -10
RISE_MAX_MS = 50.0
WHERE = {"shipped bounds": {}, "1,024 descriptors": DEFAULTS_OF_FEW}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the probe saw: latencies in milliseconds, in order, and how many requests were not answered with 200."""

    late_ms: list[float]
    refused: int

    def at(self, share: float) -> float:
        """Return a percentile."""
        return self.late_ms[min(len(self.late_ms) - 1, int(len(self.late_ms) * share))]


@dataclass(frozen=True, slots=True)
class Figures:
    """One crowd."""

    before: Seen
    beside: Seen

    @property
    def rise_ms(self) -> float:
        """Return by how much the 99th percentile rose."""
        return self.beside.at(0.99) - self.before.at(0.99)


async def table(times: int) -> bool:
    """Measure all four, and print the table; whether all is within the bounds."""
    print("| workers | where | p50, p99 before | p50, p99 beside | rise of p99: median (all), ms | refused |")
    print("|---|---|---|---|---|---|", flush=True)
    held = True
    for workers in (1, 2):
        for where, defaults in WHERE.items():
            async with running(workers=workers, defaults=defaults) as stack:
                customer, poor = await stack.customer("1000"), await stack.customer("0.000001")
                _separate(stack)
                await _probe(stack, customer.key, WARM_S)
                figures = [await _one(stack, customer.key, poor.key) for _ in range(times)]
            rises = [each.rise_ms for each in figures]
            refused = sum(each.before.refused + each.beside.refused for each in figures)
            held = held and not refused and median(rises) <= RISE_MAX_MS
            print(
                f"| {workers} | {where} | {_middle(each.before for each in figures)} "
                f"| {_middle(each.beside for each in figures)} "
                f"| {median(rises):.1f} ({', '.join(f'{each:.1f}' for each in rises)}) | {refused} |",
                flush=True,
            )
    return held


def _middle(each: Iterator[Seen]) -> str:
    seen = list(each)
    return f"{median(one.at(0.5) for one in seen):.1f}, {median(one.at(0.99) for one in seen):.1f}"


def _separate(stack: Stack) -> None:
    """Give the workers a processor to themselves, where there are two."""
    own, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return
    assert stack.supervisor is not None
    ours = psutil.Process().children(recursive=True)
    for each in (*ours, psutil.Process()):
        with suppress(psutil.NoSuchProcess):
            for thread in each.threads():
                os.sched_setaffinity(thread.id, others)
    for pid in stack.worker_pids():
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, {own})


async def _one(stack: Stack, key: str, poor_key: str) -> Figures:
    before = await _probe(stack, key, BEFORE_S)
    come = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.crowds", stack.address, poor_key, cwd=ROOT
    )
    beside = await _probe(stack, key, 0.0, until=come)
    assert come.returncode == 0
    return Figures(before, beside)


async def _probe(stack: Stack, key: str, seconds: float, until: asyncio.subprocess.Process | None = None) -> Seen:
    """Probe for so long, or until a process has ended."""
    probe = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.chaos.crowd_figures",
        "probe",
        stack.address,
        key,
        str(seconds),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    if until is not None:
        await until.wait()
    out, _ = await probe.communicate(b"")  # closes its standard input, at which it ends
    late_ms, refused = json.loads(out)
    if refused:
        print("not answered with 200:", Counter(refused), flush=True)
    return Seen(sorted(late_ms), len(refused))


class Probe:
    """Asks at a fixed rate, whatever became of earlier requests."""

    def __init__(self, address: str, key: str) -> None:
        host, _, port = address.rpartition(":")
        self._where, self._key = (host, int(port)), key
        self._kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.late_ms: list[float] = []
        self.refused: list[str] = []

    async def run(self, seconds: float) -> None:
        """Ask for so long; without an end where that is 0, until standard input is closed."""
        loop = asyncio.get_running_loop()
        closed = loop.run_in_executor(None, sys.stdin.buffer.read)
        asking, began_s, number = set(), loop.time(), 0
        while (loop.time() - began_s < seconds) if seconds else not closed.done():
            due_s = began_s + number / PER_S
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            task = asyncio.create_task(self._ask(number, due_s))
            asking.add(task)
            task.add_done_callback(asking.discard)
            number += 1
        if asking:
            await asyncio.wait(asking)

    async def _ask(self, number: int, due_s: float) -> None:
        loop, new = asyncio.get_running_loop(), number % 2 == 1
        plan = Plan(f"probe-{number}", "ok", 0, 1, 5, 5)
        body = msgspec.json.encode(plan.body(stream=False, max_tokens=16))
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{'Connection: close' if new else 'X-Kept: 1'}\r\n\r\n"
        ).encode()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                connection = self._kept.pop() if self._kept and not new else await asyncio.open_connection(*self._where)
                reader, writer = connection
                writer.write(head + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                length = answer.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                rest = await reader.readexactly(int(length))
                self.late_ms.append((loop.time() - due_s) * 1000)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    self.refused.append(f"{answer[:12].decode()} {'new' if new else 'kept'} {rest[:120].decode()}")
        except (OSError, EOFError, TimeoutError) as error:
            self.refused.append(f"{type(error).__name__} {'new' if new else 'kept'}")
            return
        if new or len(self._kept) >= KEPT or b"connection: close" in answer.lower():
            writer.close()
        else:
            self._kept.append(connection)


async def _probing(address: str, key: str, seconds: str) -> None:
    probe = Probe(address, key)
    await probe.run(float(seconds))
    print(json.dumps([probe.late_ms, probe.refused]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["probe"]:
        with suppress(PermissionError):
            os.nice(HURRY)
        asyncio.run(_probing(*sys.argv[2:]))
    else:
        sys.exit(not asyncio.run(table(int(sys.argv[1]) if sys.argv[1:] else 1)))
