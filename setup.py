"""The wheel: pure Python, or with METERGATE_NATIVE=1 the modules of native.txt compiled by mypyc, for one machine.

All else is in pyproject.toml. mypyc needs a C compiler and Python's headers, and mypy in the environment that builds
(`--no-isolation`): see `make native`.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

NATIVE = "METERGATE_NATIVE"
# How much the C compiler optimizes: tests of what is compiled compile sooner without.
OPTIMIZE = "METERGATE_NATIVE_OPTIMIZE"


def native_modules() -> list[str]:
    """Return the paths of the modules that are compiled."""
    lines = Path(__file__).with_name("native.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def extensions() -> list[Extension]:
    """Return what is compiled: nothing, unless that was asked for."""
    if os.environ.get(NATIVE) != "1":
        return []
    from mypyc.build import mypycify  # noqa: PLC0415  (no pure build needs it)

    level = os.environ.get(OPTIMIZE, "2")
    return mypycify(["--config-file=pyproject.toml", *native_modules()], opt_level=level, debug_level="0")


setup(ext_modules=extensions())
