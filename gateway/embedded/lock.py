"""The lock that makes one process the owner of a data folder.

Invariant kept here: at most one live process runs servers on a data folder. The lock is a flock(2) on an open file, so
it ends with its holder however that ends; the file is close-on-exec, so no server inherits it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.embedded.errors import AlreadyRunning

LOCK_PATIENCE_S = 0.5  # `held` takes the lock for an instant to look: a taker asks again before it gives up
_LOCK_RETRY_S = 0.02


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, with our process id in it. Blocks up to LOCK_PATIENCE_S; raises AlreadyRunning."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while not _take(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise AlreadyRunning(folder, _pid_in(descriptor))
            time.sleep(_LOCK_RETRY_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def held(folder: Path) -> bool:
    """Whether a live process holds the lock of `folder`."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _take(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else None
