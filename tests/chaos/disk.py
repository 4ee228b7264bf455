"""Disk full under Postgres: its data on a small tmpfs that something else fills."""

import asyncio
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.faults import Fault
from tests.chaos.harness import Stack

SIZE = "400m"
FULL_S = 5.0
# For Postgres on a disk of SIZE.
OPTIONS = {"max_wal_size": "64MB", "min_wal_size": "32MB"}
_PIECE = bytes(1 << 20)


@contextmanager
def small_disk() -> Iterator[Path | str]:
    """A folder on a tmpfs of SIZE, or why there is none."""
    folder = Path(tempfile.mkdtemp(prefix="metergate-disk-"))
    command = ("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0711", "tmpfs", str(folder))
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            yield f"a tmpfs can't be mounted here: {done.stderr.strip()}"
            return
        try:
            yield folder
        finally:
            subprocess.run(("umount", "-l", str(folder)), check=True)
    except FileNotFoundError:
        yield "there is no mount(8) here"
    finally:
        folder.rmdir()


def full(folder: Path) -> Fault:
    """The fault: no byte is left on the disk for a while."""

    async def strike(stack: Stack, chance: random.Random) -> None:
        filler, ends_s = folder / "filler", time.monotonic() + FULL_S
        try:
            while time.monotonic() < ends_s:  # Postgres may free some on its way
                await asyncio.to_thread(_fill, filler)
                await asyncio.sleep(0.1)
        finally:
            filler.unlink(missing_ok=True)

    return Fault("disk full under Postgres for 5 s", strike, 2.0)


def _fill(filler: Path) -> None:
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(_PIECE)
        except OSError:
            pass
        try:
            while True:
                os.write(file.fileno(), b"\0")
        except OSError:
            pass
