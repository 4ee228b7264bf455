"""Instructions of a request by Python function: whose own they are, those of the C that it calls included.

    python -m benchmarks attribute [--kinds JSON] [--requests N]

As `benchmarks.instructions`, but the worker's functions are called through stubs (`stubs.c`), which add a tenth. Needs
a C compiler and Python's headers beside valgrind.
"""

import re
import subprocess
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import instructed, instructions
from benchmarks.modes import Mode
from benchmarks.process import ROOT
from benchmarks.stage import open_stage
from benchmarks.subjects import Report, Unsound
from benchmarks.suite import PARTITIONS
from benchmarks.tables import table

FUNCTIONS: Final = 70
DEFAULT_KINDS: Final = "JSON"
_STUB: Final = re.compile(r"stub_x([0-9a-f]+)")
_EVALUATES: Final = "_PyEval_EvalFrameDefault"

Function = tuple[str, str]
"""A file and a qualified name; two empty ones stand for what no Python function has called."""


@dataclass(slots=True)
class Attributed:
    """What one count says: instructions in all, those within each function, those that are its own, and its calls."""

    total: int = 0
    within: Counter[Function] = field(default_factory=Counter)
    own: Counter[Function] = field(default_factory=Counter)
    calls: Counter[Function] = field(default_factory=Counter)


async def attribute(mode: Mode, requests: int, names: str | None, report: Report) -> str:
    """Return the tables of these kinds. Raises `Unsound`."""
    async with open_stage() as stage:
        stubs = _build(stage.folder)
        installation = await stage.install(mode.size, (6,), partitions=PARTITIONS, defaults=instructions.PATIENT)
        installation.more[instructed.STUBS] = str(stubs)
        asked = instructions.only(instructions.kinds(installation.secrets[6]), names or DEFAULT_KINDS)
        under = (instructed.__name__, str(stage.folder))
        worker = await stage.worker(installation, "metergate", (*under, "gateway.app"))
        counter, written = instructions.Counter(worker, stage.folder), instructions.Written(installation)
        parts: list[str] = []
        pairs = Path(f"{stubs}.{worker.popen.pid}")
        await instructions.counted(
            counter,
            worker,
            asked,
            requests,
            report,
            written=written.all,
            each_counted=lambda name: parts.append(
                _shown(name, read(counter.dump.read_text(), pairs.read_text()), requests)
            ),
        )
        worker.stop()
    return "\n\n".join(parts)


def _build(folder: Path) -> Path:
    """Return the module of stubs, compiled. Raises `Unsound`."""
    built = folder / "stubs.so"
    include = sysconfig.get_path("include")
    source = str(Path(__file__).with_name("stubs.c"))
    command = ("cc", "-O1", "-shared", "-fPIC", f"-I{include}", source, "-o", str(built))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unsound(f"the stubs can't be compiled:\n{done.stderr[-2000:]}")
    return built


def read(dump: str, pairs: str) -> Attributed:
    """Return what a dump of callgrind says of the functions that `pairs` names, a line for each stub."""
    of_stub: dict[int, tuple[Function, Function]] = {}
    for line in pairs.splitlines():
        number, *names = line.split("\t")
        of_stub[int(number, 16)] = (names[0], names[1]), (names[2], names[3])
    found = Attributed()
    function = callee = ""
    calls = -1
    for line in dump.splitlines():
        if line.startswith("fn="):
            function = line[3:]
        elif line.startswith("cfn="):
            callee = line[4:]
        elif line.startswith("calls="):
            calls = int(line[6:].split()[0])
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            _, count, *_ = (*line.split(), "0")
            stub = _STUB.match(function)
            if calls < 0:
                found.total += int(count)
            elif stub is not None and _EVALUATES in callee and int(stub[1], 16) in of_stub:
                caller, called = of_stub[int(stub[1], 16)]
                found.within[called] += int(count)
                found.own[called] += int(count)
                found.own[caller] -= int(count)
                found.calls[called] += calls
            calls = -1
    return found


def _shown(name: str, found: Attributed, requests: int) -> str:
    nobody = ("", "")
    outside = found.total + found.own.pop(nobody, 0)
    head = ("own", "within", "calls", "function")
    rows = [
        (
            f"{own / requests:,.0f}",
            f"{found.within[function] / requests:,.0f}",
            f"{found.calls[function] / requests:.2f}",
            f"{_place(function[0])}:{function[1]}",
        )
        for function, own in found.own.most_common(FUNCTIONS)
    ]
    ours = {file for (file, _), calls in found.calls.items() if calls >= requests * 0.95 and _is_ours(file)}
    functions = [each for each, calls in found.calls.items() if calls >= requests * 0.95 and _is_ours(each[0])]
    first = (
        f"{name}: {found.total / requests:,.0f} instructions a request, {outside / requests:,.0f} of them outside of "
        f"Python functions; {len(functions)} functions in {len(ours)} files of ours are passed by each"
    )
    return "\n".join((first, "", *table(head, rows)))


def _is_ours(file: str) -> bool:
    return file.startswith((f"{ROOT}/gateway/", f"{ROOT}/billing/"))


def _place(file: str) -> str:
    return re.sub(r"^.*/(?:site-packages|lib/python3\.\d+)/", "", file.removeprefix(f"{ROOT}/"))
