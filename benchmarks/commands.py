"""How long a command takes from its start to its end: what every use of the command line waits for."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks.subjects import Sample, Unsound

COMMANDS: Final = ("--version", "operator --help")
TIMEOUT_S: Final = 60.0
METERGATE: Final = Path(sys.executable).with_name("metergate")
"""As it was installed beside this Python: what a person starts."""


def measure(command: str) -> Sample:
    """Wall clock and CPU of one start, by a process that has the modules' bytecode on its disk. Raises `Unsound`."""
    used, started_s = os.times(), time.monotonic()
    done = subprocess.run([METERGATE, *command.split()], capture_output=True, check=False, timeout=TIMEOUT_S)
    wall_s, after = time.monotonic() - started_s, os.times()
    if done.returncode:
        raise Unsound(f"metergate {command} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    cpu_s = after.children_user + after.children_system - used.children_user - used.children_system
    return {"wall_s": wall_s, "cpu_s": cpu_s}
