"""Compile the modules of native.txt for this machine, beside their sources: `make native`; `make pure` undoes it.

Where there is no C compiler, or no headers of Python, nothing is compiled and it says so. Python takes a compiled
module before its source, so that after a change of one it must be compiled again: `stale` names those of which that is
so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
LIST: Final = "native.txt"
SWITCH: Final = "METERGATE_NATIVE"
BUILD: Final = ("setup.py", "-q", "build_ext", "--inplace")
# What the compiled modules share is a library beside the packages.
SHARED: Final = "*__mypyc*.so"


def modules(root: Path = ROOT) -> list[Path]:
    """Return the sources that are compiled in a native build."""
    lines = (root / LIST).read_text().splitlines()
    return [root / line for line in lines if line and not line.startswith("#")]


def _compiled(source: Path) -> Path | None:
    """Return what Python loads in place of a source, None where that is the source."""
    found = (source.with_name(source.stem + suffix) for suffix in EXTENSION_SUFFIXES)
    return next((path for path in found if path.exists()), None)


def compiled(root: Path = ROOT) -> list[Path]:
    """Return the sources in place of which compiled modules are loaded."""
    return [source for source in modules(root) if _compiled(source) is not None]


def stale(root: Path = ROOT) -> list[Path]:
    """Return the sources that have changed since they were compiled."""
    pairs = [(source, _compiled(source)) for source in modules(root)]
    return [source for source, made in pairs if made is not None and made.stat().st_mtime < source.stat().st_mtime]


def lacking() -> str | None:
    """Return what a native build lacks here, None where it can be made."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(os.environ.get("CC", compiler)) is None:
        return f"no C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no headers of Python (Python.h)"
    return None if find_spec("mypyc") is not None else "no mypyc"


def build() -> str | None:
    """Compile all modules; return what that lacks, if anything. Raises `CalledProcessError`."""
    remove()
    if (what := lacking()) is None:
        environ = {**os.environ, SWITCH: "1"}
        subprocess.run([sys.executable, *BUILD], cwd=ROOT, env=environ, check=True, stdout=subprocess.DEVNULL)
    return what


def remove() -> None:
    """Remove what was compiled."""
    for source in modules():
        if (made := _compiled(source)) is not None:
            made.unlink()
    for path in ROOT.glob(SHARED):
        path.unlink()


def main() -> None:
    if sys.argv[1:] == ["remove"]:
        remove()
    elif (what := build()) is not None:
        print(f"Nothing is compiled: there is {what}. Metergate runs without.", file=sys.stderr)
    else:
        print(f"{len(compiled())} modules are compiled; make pure undoes it.")


if __name__ == "__main__":
    main()
