"""The command line: `python -m benchmarks` measures, `profile` looks inside, `growth` measures how cost grows."""

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from benchmarks import attribute, capacity, console, growth, instructions, peers, recovery, report
from benchmarks.collect import collect
from benchmarks.load import LoadError
from benchmarks.machine import UnfitMachine, check, describe
from benchmarks.modes import MODES, PHASES, Mode, only
from benchmarks.process import StageError
from benchmarks.profiling import profile
from benchmarks.seed import Size
from benchmarks.stage import open_stage
from benchmarks.subjects import Report, Results, Sample, Unsound
from benchmarks.suite import CORES, Suite
from gateway.embedded.folders import EmbeddedServersError

RESULTS: Final = Path(__file__).parent / "results"

T = TypeVar("T")


def main() -> int:
    """0 when everything was measured and counted up; 1 with a reason otherwise."""
    parser = _parser()
    arguments = parser.parse_args()
    started = time.monotonic()

    def note(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", file=sys.stderr, flush=True)

    try:
        mode = _mode(arguments)
    except ValueError as error:
        parser.error(str(error))
    try:
        if arguments.command == "capacity":
            print(capacity.text(arguments.out))
            return 0
        check()
        machine = {**describe(), "pinned_to_core": CORES}
        if arguments.command == "profile":
            uvloop.run(_until_told(profile(mode, arguments.streams, arguments.rate, note)))
            return 0
        if arguments.command in ("instructions", "attribute"):
            count = instructions.count if arguments.command == "instructions" else attribute.attribute
            print(uvloop.run(_until_told(count(MODES["quick"], arguments.requests, arguments.kinds, note))))
            return 0
        if arguments.command == "growth":
            grown = uvloop.run(_until_told(growth.run(growth.sizes(arguments), note)))
            machine["took_s"] = round(time.monotonic() - started)
            print(growth.write(grown, machine, arguments.out))
            return 0
        if arguments.command == "collect":
            for sample in uvloop.run(_until_told(_collect(arguments.sources, arguments.series, note))):
                print(json.dumps(sample))
            return 0
        if arguments.command == "console":
            print(uvloop.run(_until_told(_console(arguments.folder, arguments.events, arguments.pages, note))))
            return 0
        if arguments.command == "recovery":
            print(uvloop.run(_until_told(_recovery(arguments.folder, arguments.events, note))))
            return 0
        results = uvloop.run(_until_told(_measure(mode, note, arguments.target)))
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


async def _measure(mode: Mode, note: Report, targets: Sequence[str]) -> Results:
    async with open_stage() as stage:
        return await Suite(stage, mode, note, targets).run()


async def _collect(sources: int, series: int, note: Report) -> list[Sample]:
    async with open_stage() as stage:
        return await collect(stage, sources, series, note)


async def _console(folder: Path | None, events: int, only: str, note: Report) -> str:
    async with open_stage(folder) as stage:
        return (await console.console(stage, events, note, only)).text()


async def _recovery(folder: Path | None, events: int, note: Report) -> str:
    with tempfile.TemporaryDirectory(prefix="mg-recovery-", dir=folder) as made:
        return await recovery.recovery(Path(made), events, note)


def _mode(arguments: argparse.Namespace) -> Mode:
    """Raises `ValueError` for a phase that there is not."""
    own = "quick" if arguments.quick else "full" if arguments.full else "target" if arguments.target else "default"
    mode = MODES[own]
    size = Size(arguments.accounts or mode.size.accounts, arguments.keys or mode.size.keys)
    mode = dataclasses.replace(mode, size=size, connections=arguments.connections or mode.connections)
    return only(mode, arguments.only.split(",")) if arguments.only else mode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description="What Metergate costs beside a bare pass-through.")
    parser.add_argument(
        "command",
        nargs="?",
        choices=("run", "profile", "instructions", "attribute", "growth", "collect", "console", "recovery", "capacity"),
        default="run",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="the two main figures and streams, in about a minute")
    length.add_argument("--full", action="store_true", help="everything, more and longer rounds; about half an hour")
    parser.add_argument("--only", metavar="PHASE,...", help=f"these phases alone: {', '.join(PHASES)}")
    parser.add_argument(
        "--target", action="append", default=[], choices=peers.OPTIONAL, help="another proxy beside, installed first"
    )
    parser.add_argument("--accounts", type=int, help="accounts of each set of customers")
    parser.add_argument("--keys", type=int, help="keys of each set of customers, in rotation")
    parser.add_argument("--connections", type=int, help="connections at saturation")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--streams", action="store_true", help="profile: streams instead of whole answers")
    parser.add_argument("--rate", type=int, help="profile: requests a second instead of saturation")
    parser.add_argument("--requests", type=int, default=instructions.REQUESTS, help="instructions: of each kind")
    parser.add_argument("--kinds", metavar="KIND,...", help="instructions, attribute: these kinds alone")
    parser.add_argument("--sources", type=int, default=1000, help="collect: exporters")
    parser.add_argument("--series", type=int, default=1000, help="collect: series of each, two a sample")
    parser.add_argument("--folder", type=Path, help="console: where the ledger is kept; recovery: where there is room")
    parser.add_argument("--events", type=int, default=console.EVENTS, help="console, recovery: of the ledger")
    parser.add_argument("--pages", metavar="TEXT", default="", help="console: those alone whose address has this")
    growth.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
