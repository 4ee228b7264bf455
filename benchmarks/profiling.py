"""Where Metergate's CPU goes, by function: the worker under cProfile, at saturation, at a rate, or on streams.

cProfile charges every call, so that small functions look dearer than they are: use it to rank and to count calls, and
the benchmark itself to judge a change.
"""

import ast
import os
import pstats
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import profiled_worker, wire
from benchmarks.connection import Tally
from benchmarks.load import Run
from benchmarks.modes import Mode
from benchmarks.process import ROOT
from benchmarks.stage import open_stage
from benchmarks.subjects import Report, Unsound
from benchmarks.suite import PARTITIONS
from benchmarks.turns import WARM_CONNECTIONS

PROFILE_S: Final = 8.0
LINES: Final = 45
# Calls a request from which on a request counts as passing a function.
PASSED: Final = 0.5


async def profile(mode: Mode, streams: bool, rate: int | None, report: Report) -> None:
    """Print the functions that took the most time of their own, in microseconds a request. Raises `Unsound`."""
    async with open_stage() as stage:
        installation = await stage.install(mode.size, (6,), partitions=PARTITIONS)
        command = (profiled_worker.__name__, str(stage.folder / "profile"))
        worker = await stage.worker(installation, "metergate", command)
        secrets = installation.secrets[6]
        requests = [wire.request(secret, stream=streams) for secret in secrets]
        address = worker.address
        report("Warming ...")
        await Run(address, [wire.request(secret) for secret in secrets]).once(WARM_CONNECTIONS)
        report(f"Profiling for {PROFILE_S:.0f} s ...")

        def turn() -> None:
            os.kill(worker.popen.pid, signal.SIGUSR1)

        run = Run(address, requests, turn, turn)
        tally = await _load(run, mode, streams, rate)
        if tally.errors:
            raise Unsound(f"{dict(tally.errors)}")
        worker.stop()
        print(_table(str(stage.folder / "profile"), tally.measured))


async def _load(run: Run, mode: Mode, streams: bool, rate: int | None) -> Tally:
    if streams:
        return await run.stream(mode.streams_at_once, PROFILE_S)
    if rate is not None:
        return await run.pace(rate, mode.warm_s, PROFILE_S)
    return await run.saturate(mode.connections, mode.warm_s, PROFILE_S)


def _table(file: str, requests: int) -> str:
    stats = pstats.Stats(file)
    rows = sorted(stats.stats.items(), key=lambda item: item[1][2], reverse=True)  # type: ignore[attr-defined]
    total_s = sum(row[2] for _, row in rows)
    lines = [f"{requests} requests, {total_s / requests * 1e6:.0f} us each under the profiler"]
    lines += [_passed([(key[0], key[1], row[1] / requests) for key, row in rows]), ""]
    lines.append(f"{'own us':>8} {'with callees':>12} {'calls':>6}  function")
    for (place, line, name), (_, calls, own_s, whole_s, _) in rows[:LINES]:
        where = "/".join(place.split("/")[-2:])
        times = f"{own_s / requests * 1e6:8.1f} {whole_s / requests * 1e6:12.1f} {calls / requests:6.1f}"
        lines.append(f"{times}  {where}:{line} {name}")
    return "\n".join(lines)


def _passed(rows: Sequence[tuple[str, int, float]]) -> str:
    """What a request passes of our own code, by (file, line, calls a request): what most requests do not call is left
    out, and a function without a class counts as none."""
    calls, functions, files, classes = 0.0, 0, set[str](), set[tuple[str, str]]()
    known: dict[str, list[ast.ClassDef]] = {}
    for file, line, count in rows:
        if count < PASSED or not file.startswith(tuple(f"{ROOT / name}/" for name in ("gateway", "billing"))):
            continue
        if file not in known:
            known[file] = [
                node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.ClassDef)
            ]
        calls, functions = calls + count, functions + 1
        files.add(file)
        classes |= {(file, each.name) for each in known[file] if each.lineno <= line <= (each.end_lineno or 0)}
    passed = f"{functions} functions in {len(files)} files and {len(classes)} classes of ours"
    return f"{passed}, {calls:.0f} calls of them a request"
