"""The lock that makes one process the owner of a data folder, and what can go wrong with the servers, in words.

Invariant kept here: at most one live process runs servers on a data folder. The lock is a flock(2) on an open file, so
it ends with its holder however that ends; the file is close-on-exec, so no server inherits it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from billing.errors import MetergateError


class EmbeddedServersError(MetergateError):
    """The embedded servers cannot run; the message says why and, where it is known, what to do."""


class AlreadyRunning(EmbeddedServersError):
    """Another live process has the servers of `data_dir`; `pid` is its process id where it could be read."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        self.data_dir, self.pid = data_dir, pid
        process = "" if pid is None else f" (process {pid})"
        super().__init__(f"Metergate is already running in {data_dir}{process}.")


class ServerFailed(EmbeddedServersError):
    """A server did not start; the message ends with what it last wrote to its log."""

    def __init__(self, name: str, why: str, log: Path, last_words: str) -> None:
        quoted = f"\n{last_words}" if last_words else ""
        super().__init__(f"{name} did not start: {why}. Its log is {log}.{quoted}")


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
    """Return whether a live process holds the lock of `folder`."""
    return _look(folder)[0]


def holder(folder: Path) -> int | None:
    """Return the process id that the lock of `folder` names; None where no live process holds it, or none is named."""
    return _look(folder)[1]


def _look(folder: Path) -> tuple[bool, int | None]:
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, None
    try:
        taken = not _take(descriptor, fcntl.LOCK_SH)
        return taken, _pid_in(descriptor) if taken else None
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
