"""Runs a module under callgrind, counting nothing until it is told to: a process of its own.

    python -m benchmarks.instructed FOLDER MODULE ...

The process becomes valgrind's: its id, its sockets and its signals stay. It is some fifty times slower there. From
SIGUSR1 on, the timers of its event loop are as slow: batches gather what they would gather, and what a process does by
the clock, beside its requests, weighs no more than it does. Where STUBS names a module of `benchmarks.attribute`,
callgrind sees which Python function works.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import runpy
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

SLOWER: Final = 50
STUBS: Final = "BENCHMARKS_STUBS"
_INSIDE: Final = "--inside"


class SlowLoop(uvloop.Loop):
    """An event loop whose timers take `slower` times as long."""

    slower = 1

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back after `slower` times the delay."""
        return super().call_later(delay * self.slower, callback, *args, context=context)


def _slow_down(*_: object) -> None:
    SlowLoop.slower = SLOWER
    if stubs := os.environ.get(STUBS):
        spec = importlib.util.spec_from_file_location("stubs", stubs)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        found.start(f"{stubs}.{os.getpid()}")


def _inside(module: str) -> None:
    """Run a module in this process, which is callgrind's by now."""
    signal.signal(signal.SIGUSR1, _slow_down)
    uvloop.run = partial(uvloop.run, loop_factory=SlowLoop)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    """The process's entry; outside of callgrind it never returns."""
    first, *module = sys.argv[1:]
    if first == _INSIDE:
        sys.argv[1:] = module[1:]
        _inside(module[0])
        return
    out = f"--callgrind-out-file={first}/callgrind.%p"
    valgrind = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no", out)
    command = [*valgrind, sys.executable, "-m", __spec__.name, _INSIDE, *module]
    os.execvp(valgrind[0], command)  # noqa: S606 - our own arguments, no shell


if __name__ == "__main__":
    main()
