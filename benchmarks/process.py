"""Processes that a run starts: pinned to a core, serving on a socket of loopback, ended with us whatever happens."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from benchmarks.load import Address
from benchmarks.machine import on_core
from gateway.embedded import launch

ROOT: Final = Path(__file__).parent.parent
READY_S: Final = 60.0
READY_POLL_S: Final = 0.05
STOP_S: Final = 60.0
FAILED_LINES: Final = 30
BACKLOG: Final = 4096


class StageError(Exception):
    """A process that the run needs did not do its part; the message says which."""


@dataclass(slots=True)
class Process:
    """One process of the benchmark, with the address that it serves. `workers` are the processes whose CPU and memory
    count as its own: itself, unless it only supervises them."""

    name: str
    address: Address
    popen: "subprocess.Popen[bytes]"
    log: Path
    workers: tuple[int, ...] = field(default=())
    ready_s: float = 0.0
    """When it was found to serve, by `time.perf_counter`; 0 where nobody waited for that."""

    def __post_init__(self) -> None:
        self.workers = self.workers or (self.popen.pid,)

    def stop(self) -> int:
        """End it gently and wait; its exit code, 0 too for an end by SIGTERM. Raises `StageError` when it stays."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            code = self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise StageError(f"{self.name} did not end within {STOP_S:.0f} s") from None
        return 0 if code == -signal.SIGTERM else code

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-FAILED_LINES:])

    def children(self) -> tuple[int, ...]:
        """The processes that it has started and that live."""
        return tuple(child.pid for child in psutil.Process(self.popen.pid).children())

    async def until(self, condition: Callable[[], bool], at_most_s: float = READY_S) -> None:
        """Wait for it; `condition` is asked in a thread. Raises `StageError` when it ends or takes too long."""
        deadline = time.monotonic() + at_most_s
        while not await asyncio.to_thread(condition):
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise StageError(f"{self.name} did not start:\n{self.last_words()}")
            await asyncio.sleep(READY_POLL_S)
        self.ready_s = time.perf_counter()

    def answers(self, path: str) -> bool:
        """Whether GET of this path is answered with 200."""
        host, port = self.address
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def listen() -> socket.socket:
    """A socket of loopback on any free port, for a child to inherit."""
    return socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)


def free_address() -> Address:
    """An address that nobody has at this moment, for a program that can't inherit a socket."""
    with listen() as listener:
        address: Address = listener.getsockname()
    return address


def bound_to_us(command: Sequence[str]) -> tuple[str, ...]:
    """The command, so that it ends when we end."""
    launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(signal.SIGKILL)), "-")
    return (*launcher, *command)


def spawn(
    name: str,
    command: Sequence[str],
    address: Address,
    folder: Path,
    core: int,
    *,
    fds: Sequence[int] = (),
    environment: dict[str, str] | None = None,
) -> Process:
    """Start a command on a core. Its output goes to a log in the folder."""
    log = folder / f"{name.replace(' ', '-').replace(',', '')}.log"
    with log.open("ab") as output, on_core(core):
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **(environment or {})},
            pass_fds=fds,
            start_new_session=True,
        )
    return Process(name, address, popen, log)
