"""The folder in which workers show each other their counts.

Invariant kept here: as a scrape sees it, a worker's counts stand in exactly one place, its own file while it lives
or the totals of the dead once it is gone, so that no counter ever falls and none is added twice. At most the counts
since its last flush go with a killed worker.
"""

import fcntl
import logging
import os
import secrets
from pathlib import Path
from typing import Final

import msgspec

from gateway.metrics.snapshot import Snapshot

DEAD_NAMES_LIMIT: Final = 1_000
"""Dead workers that are folded at once, and whose names are remembered."""

_DEAD_TOTALS: Final = "dead-workers"
_FOLDING: Final = "folding"
_log = logging.getLogger(__name__)


class Folder:
    """A worker's place in the shared folder: NAME.snapshot, replaced as a whole, and NAME.lock, locked while it lives.

    The kernel gives the lock back however a process ends. A worker whose lock is free is dead: whoever has the lock of
    _FOLDING adds its snapshot to _DEAD_TOTALS, which list its name from then on, and only then removes its files.
    Readers take no lock: they read the snapshots first and the totals last, and leave out every snapshot listed there.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"  # a process id comes back, and in a container soon
        self._written = b""
        unlocked = self._file(".new")
        self._lock = os.open(unlocked, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self._file(".lock"))  # locked before anyone can see it
        self.fold()

    def write(self, snapshot: Snapshot) -> None:
        """Replace this worker's snapshot if it has changed."""
        packed = msgspec.msgpack.encode(snapshot)
        if packed != self._written:
            self._replace(self._file(".snapshot"), packed)
            self._written = packed

    def others(self) -> list[Snapshot]:
        """The snapshots of all other workers, and the totals of the dead."""
        found = {}
        for name in self._names() - {self._name}:
            found[name] = self._read(self._file(".snapshot", name))
            if not self._alive(name):
                found[name].gauges.clear()
        dead = self._read(self._path / _DEAD_TOTALS)
        return [dead, *(snapshot for name, snapshot in found.items() if name not in dead.names)]

    def fold(self) -> None:
        """Add the snapshots of dead workers to the totals and remove them, unless another worker is at it."""
        folding = os.open(self._path / _FOLDING, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(folding, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead = [name for name in sorted(self._names()) if not self._alive(name)][:DEAD_NAMES_LIMIT]
            if dead:
                self._fold(dead)
        except BlockingIOError:
            return
        finally:
            os.close(folding)

    def _fold(self, dead: list[str]) -> None:
        total = self._read(self._path / _DEAD_TOTALS)
        for name in dead:
            if name not in total.names:  # one that is listed was added, but not removed yet
                total.add(self._read(self._file(".snapshot", name)))
        total.names = [*(name for name in total.names if name not in dead), *dead][-DEAD_NAMES_LIMIT:]
        self._replace(self._path / _DEAD_TOTALS, msgspec.msgpack.encode(total))
        for name in dead:
            for suffix in (".new", ".snapshot", ".lock"):
                self._file(suffix, name).unlink(missing_ok=True)

    def close(self) -> None:
        """Leave: from now on this worker counts as dead."""
        os.close(self._lock)

    def _file(self, suffix: str, name: str | None = None) -> Path:
        return self._path / f"{name or self._name}{suffix}"

    def _names(self) -> set[str]:
        return {path.stem for path in self._path.iterdir() if path.suffix in (".snapshot", ".lock")}

    def _replace(self, path: Path, content: bytes) -> None:
        draft = self._file(".new")
        draft.write_bytes(content)
        draft.replace(path)

    def _alive(self, name: str) -> bool:
        try:
            lock = os.open(self._file(".lock", name), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(
                lock, fcntl.LOCK_SH | fcntl.LOCK_NB
            )  # shared: two that look don't take each other for its owner
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _read(self, path: Path) -> Snapshot:
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=Snapshot)
        except FileNotFoundError:
            return Snapshot()
        except msgspec.DecodeError as error:  # of another version, which a folder made anew does not have
            _log.warning("metrics in %s are left out: %s", path.name, error)
            return Snapshot()
