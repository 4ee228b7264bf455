"""How long a command takes from its start to its end: what every use of the command line waits for."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.subjects import Sample, Unsound

COMMANDS: Final = ("--version", "operator --help", "operator account list")
TIMEOUT_S: Final = 60.0
# As it was installed beside this Python: what a person starts.
METERGATE: Final = Path(sys.executable).with_name("metergate")


@contextmanager
def running_up() -> Iterator[dict[str, str]]:
    """Run `metergate up` in a folder of its own; the environment in which commands find it. Raises `Unsound`."""
    with tempfile.TemporaryDirectory(prefix="mg-bench-") as folder:
        Path(folder).chmod(0o711)  # the user that Postgres runs as passes through
        left_out = ("DATABASE_URL", "REDIS_URL", "PYTHONDONTWRITEBYTECODE")  # an installed command has its bytecode
        env = {name: text for name, text in os.environ.items() if name not in left_out}
        env |= {"METERGATE_DATA_DIR": f"{folder}/data", "LISTEN_ADDR": "127.0.0.1:0", "METRICS_ADDR": "off"}
        errors = Path(folder, "errors")
        with errors.open("wb") as stderr:
            up = subprocess.Popen([METERGATE, "up"], stdout=subprocess.PIPE, stderr=stderr, env=env, text=True)
        try:
            assert up.stdout is not None
            if not any(line.startswith("Ctrl-C") for line in up.stdout):
                raise Unsound(f"metergate up did not start: {errors.read_text(errors='replace')}")
            yield env
        finally:
            up.terminate()
            up.communicate()


def measure(command: str, env: Mapping[str, str]) -> Sample:
    """Wall clock and CPU of one start, by a process that has the modules' bytecode on its disk. Raises `Unsound`."""
    used, started_s = os.times(), time.monotonic()
    done = subprocess.run([METERGATE, *command.split()], capture_output=True, check=False, timeout=TIMEOUT_S, env=env)
    wall_s, after = time.monotonic() - started_s, os.times()
    if done.returncode:
        raise Unsound(f"metergate {command} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    cpu_s = after.children_user + after.children_system - used.children_user - used.children_system
    return {"wall_s": wall_s, "cpu_s": cpu_s}
