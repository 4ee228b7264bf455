"""The folder in which a run of the tests writes all that it writes: one for all its processes, removed at its end.

A run that is killed leaves its folder behind, perhaps with gigabytes in memory. Its lock is free then, and the next run
of the same user removes it. So it does with shared memory that killed Postgres servers left and that nobody has mapped.
"""

import fcntl
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gateway.embedded.folders import SERVER_USER

MEMORY = Path("/dev/shm")  # noqa: S108 - folders of our own are made in it
# Of the servers' data and logs, several of each at a time, and half as much again.
LEAST_ROOM_BYTES = 3 << 30
PREFIX = "mg-tests-"
SEGMENTS = "PostgreSQL.*"


def has_room(folder: Path) -> bool:
    """Whether a folder has LEAST_ROOM_BYTES, and programs can be run from it."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize >= LEAST_ROOM_BYTES and not found.f_flag & os.ST_NOEXEC


def choose_place() -> Path:
    """Where TMPDIR says, else in memory where it has room: making and dropping a database is a matter of fsync."""
    if "TMPDIR" not in os.environ and has_room(MEMORY):
        return MEMORY
    return Path(tempfile.gettempdir())


class Scratch:
    """A run's folder in `place`, locked as long as this process or one that it forked lives."""

    def __init__(self, place: Path) -> None:
        remove_dead(place)
        if place == MEMORY:
            remove_segments(place)
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            try:
                self._lock = os.open(self.folder, os.O_RDONLY)
            except FileNotFoundError:  # another run has taken it for a dead one's already
                continue
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.folder.exists():  # else another run has taken it for a dead one's
                break
            os.close(self._lock)
        self.folder.chmod(0o711)  # as root, Postgres runs as a user who has to pass through

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def remove_dead(place: Path) -> None:
    """Remove this user's folders whose run has ended."""
    for folder in place.glob(f"{PREFIX}*"):
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            continue
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def remove_segments(place: Path) -> None:
    """Remove the shared memory of Postgres servers of this user, or of the one they run as, that no process has."""
    segments = [path for path in place.glob(SEGMENTS) if path.stat().st_uid in _owners()]
    for path in set(segments) - _mapped(segments):
        path.unlink(missing_ok=True)


def _owners() -> set[int]:
    owners = {os.getuid()}
    if os.getuid() == 0:
        with suppress(KeyError):  # no server has run here yet
            owners.add(pwd.getpwnam(SERVER_USER).pw_uid)
    return owners


def _mapped(segments: Iterable[Path]) -> set[Path]:
    """Those of the segments that a process has mapped."""
    found: set[Path] = set()
    names = {str(path): path for path in segments}
    for maps in Path("/proc").glob("[0-9]*/maps") if names else ():
        try:
            words = maps.read_text().split()
        except (OSError, UnicodeDecodeError):  # it has ended, or is another user's
            continue
        found.update(names[word] for word in words if word in names)
    return found
