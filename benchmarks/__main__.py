"""The command line: `python -m benchmarks [--quick | --full]` measures, `python -m benchmarks profile` looks inside."""

import argparse
import asyncio
import dataclasses
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from benchmarks import report
from benchmarks.load import LoadError
from benchmarks.machine import UnfitMachine, check, describe
from benchmarks.profiling import profile
from benchmarks.seed import Size
from benchmarks.stage import StageError, open_stage
from benchmarks.suite import CORES, MODES, Mode, Report, Results, Suite, Unsound
from gateway.embedded import EmbeddedServersError

RESULTS: Final = Path(__file__).parent / "results"

T = TypeVar("T")


def main() -> int:
    """0 when everything was measured and counted up; 1 with a reason otherwise."""
    arguments = _arguments()
    mode = _mode(arguments)
    started = time.monotonic()

    def note(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", file=sys.stderr, flush=True)

    try:
        check()
        if arguments.command == "profile":
            uvloop.run(_until_told(profile(mode, arguments.streams, arguments.rate, note)))
            return 0
        machine = {**describe(), "pinned_to_core": CORES}
        results = uvloop.run(_until_told(_measure(mode, note)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("No figures: stopped.", file=sys.stderr)
        return 130
    except (UnfitMachine, StageError, LoadError, Unsound, EmbeddedServersError) as error:
        print(f"No figures: {error}", file=sys.stderr)
        return 1
    machine["took_s"] = round(time.monotonic() - started)
    report.write(results, machine, arguments.out)
    print(report.markdown(results, machine))
    print(f"Written to {arguments.out / 'latest.json'} and latest.md.", file=sys.stderr)
    return 0


async def _until_told(work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; SIGTERM cancels it, as Ctrl-C does, so that servers and folders are cleared away."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


async def _measure(mode: Mode, note: Report) -> Results:
    async with open_stage() as stage:
        return await Suite(stage, mode, note).run()


def _mode(arguments: argparse.Namespace) -> Mode:
    mode = MODES["quick" if arguments.quick else "full" if arguments.full else "default"]
    size = Size(arguments.accounts or mode.size.accounts, arguments.keys or mode.size.keys)
    return dataclasses.replace(mode, size=size, connections=arguments.connections or mode.connections)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="What Metergate costs beside a bare pass-through.")
    parser.add_argument("command", nargs="?", choices=("run", "profile"), default="run")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="the two main figures, in under a minute")
    length.add_argument(
        "--full", action="store_true", help="every rate, 1,000 accounts and 3,000 keys; about 15 minutes"
    )
    parser.add_argument("--accounts", type=int, help="accounts of each set of customers")
    parser.add_argument("--keys", type=int, help="keys of each set of customers, in rotation")
    parser.add_argument("--connections", type=int, help="connections at saturation")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of latest.json and latest.md")
    parser.add_argument("--streams", action="store_true", help="profile: streams instead of whole answers")
    parser.add_argument("--rate", type=int, help="profile: requests a second instead of saturation")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
