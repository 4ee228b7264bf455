"""Programs of the system that tests run, and that need not be there."""

import os
import shutil
import sys
from pathlib import Path

import pytest

# Where Debian has those that are for administrators.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def program(name: str, package: str | None = None) -> str:
    """The path of a program; skips where it is missing, and says which of Debian's packages has it."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed: Debian's package {package or name} has it")
    return found


_JUDGES = Path(sys.prefix) / "judges" / "bin"


def judge(name: str) -> str:
    """The path of a program in the environment of those that judge `deploy/`; skips where that could not be made."""
    found = shutil.which(name, path=str(_JUDGES))
    if found is None:
        pytest.skip(f"{name} is not installed: `make .venv/judges/.made` does it, where a registry can be reached")
    return found
