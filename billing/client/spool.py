"""Where events wait that a service has recorded: a bounded file on disk, one process's own. Nothing here is async.

An event is on the disk (fsync) when `append` returns. Nothing is struck from the file one by one: sending an event
twice is harmless, so that the file is emptied when all of its events are delivered, and written anew, with those that
are left, when most are. What does not fit on the disk is taken back to the last whole record, and raised.

A process's file is locked for as long as it lives (`billing.wal_segment`). Those of processes that have ended are
adopted by others of the same gateway and service; the file's name says whose they are. An event that the gateway
refuses for good is parked: appended, with the reason, to a file of lines in JSON that all processes share. A damaged
file is kept under another name.
"""

import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from billing.wal_segment import begin_segment, is_torn, record_of, records_in, segments_in, taken

logger = logging.getLogger(__name__)

SUFFIX: Final = ".events"
DAMAGED: Final = ".damaged"
PARKED: Final = "parked.jsonl"
# Of the digest of the gateway's URL in a file's name.
URL_CHARACTERS: Final = 8
# To open a parked file that others take away at the same moment.
TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class SpoolRules:
    """Where events wait, and bounds: bytes of those that wait in one process, and of the parked ones in the folder;
    how many and how many bytes one call takes; how long a client waits at its end for what is left."""

    folder: Path
    most_bytes: int = 64 * 1024 * 1024
    most_parked_bytes: int = 64 * 1024 * 1024
    batch_events: int = 500
    batch_bytes: int = 512 * 1024
    drain_s: float = 5.0
    first_wait_s: float = 0.2
    longest_wait_s: float = 60.0
    adopt_every_s: float = 30.0

    def __post_init__(self) -> None:
        if min(self.most_bytes, self.most_parked_bytes, self.batch_bytes) < 1 or not 1 <= self.batch_events <= 1000:
            raise ValueError("a spool's bytes are above zero, and a call has 1 to 1,000 events")
        if not 0 < self.first_wait_s <= self.longest_wait_s or self.drain_s < 0 or self.adopt_every_s <= 0:
            raise ValueError("waits of a spool are above zero, and first_wait_s is at most longest_wait_s")


class EventSpool:
    """The file of one process. Made by `open`, which raises OSError where the folder can't be used; methods raise
    OSError where an event is not on the disk. For one thread at a time."""

    def __init__(self, rules: SpoolRules, base_url: str, service_name: str, new_id: Callable[[], str]) -> None:
        self._rules = rules
        self._whose = f"{service_name}.{hashlib.sha256(base_url.encode()).hexdigest()[:URL_CHARACTERS]}"
        self._new_id = new_id
        self._path: Path | None = None
        self._fd = -1
        self._torn = False
        self.size = 0

    @property
    def parked_path(self) -> Path:
        """Return where parked events are."""
        return self._rules.folder / f"{self._whose}.{PARKED}"

    def open(self) -> None:
        """Begin a file, in a folder that is made if missing."""
        self._rules.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._rules.folder / f"{self._whose}.{self._new_id()}{SUFFIX}"
        self._fd, self._path, self.size, self._torn = begin_segment(path), path, 0, False
        self._sync_folder()

    def append(self, events: Sequence[bytes], left: Sequence[bytes] = ()) -> None:
        """Write events, all or none of them. `left` are those that wait already: where the file is torn or has no room
        for delivered ones, it is written anew with them."""
        records = b"".join(map(record_of, events))
        if self._torn or self.size + len(records) > self._rules.most_bytes:
            self.rewrite(left)
        if self.size + len(records) > self._rules.most_bytes:
            raise OSError(errno.EFBIG, "as many events wait in the spool as it may have")
        self._write(records)

    def _write(self, records: bytes) -> None:
        try:
            view = memoryview(records)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except OSError:
            try:
                os.ftruncate(self._fd, self.size)
            except OSError:
                self._torn = True  # nothing may follow a record that is not whole
            raise
        self.size += len(records)

    def rewrite(self, left: Sequence[bytes]) -> None:
        """Begin a file with these events alone, and remove the one before."""
        before = self._fd, self._path, self.size, self._torn
        self.open()
        try:
            if left:
                self._write(b"".join(map(record_of, left)))
        except OSError:
            self._drop()
            self._fd, self._path, self.size, self._torn = before
            raise
        now = self._fd, self._path
        self._fd, self._path = before[:2]
        self._drop()
        self._fd, self._path = now

    def empty(self) -> None:
        """Forget all events: they are delivered."""
        with suppress(OSError):  # then they are delivered again
            os.ftruncate(self._fd, 0)
            self.size, self._torn = 0, False

    def adopt(self, left: Sequence[bytes]) -> list[bytes]:
        """Append the events of processes that have ended, as far as there is room, and return them."""
        found: list[bytes] = []
        for path in segments_in(self._rules.folder, SUFFIX):
            if path == self._path or not path.name.startswith(f"{self._whose}."):
                continue
            with suppress(OSError), taken(path) as mine:
                if not mine:
                    continue
                raw = path.read_bytes()
                events, end = records_in(raw)
                if not is_torn(raw[end:]):
                    _keep_damaged(path, len(raw) - end)
                elif end < len(raw):
                    logger.warning("%s ends in an event that is not whole: its process was killed in writing it", path)
                self.append(events, [*left, *found])  # raises where there is no room, and the file stays
                found += events
        return found

    def park(self, event: bytes, why: str) -> None:
        """Keep an event that the gateway refuses for good, with the reason, for somebody to look at. One that is no
        JSON is kept as a text."""
        line = msgspec.json.encode({"why": why, "event": _kept(event)}) + b"\n"
        fd = self._open_parked()
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":  # a process was killed in writing a line
                line = b"\n" + line
            if size + len(line) > self._rules.most_parked_bytes:
                raise OSError(errno.EFBIG, f"{self.parked_path} is full")
            try:
                if os.write(fd, line) != len(line):
                    raise OSError(errno.ENOSPC, "an event was parked in part")
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)

    def _open_parked(self) -> int:
        """Return the parked file, locked: closing it unlocks it."""
        for _ in range(TRIES):
            fd = os.open(self.parked_path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)  # held for one line at a time
            with suppress(OSError):
                if os.stat(self.parked_path).st_ino == os.fstat(fd).st_ino:
                    return fd
            os.close(fd)
        raise OSError(errno.EBUSY, f"{self.parked_path} is taken away")

    def unpark(self, left: Sequence[bytes]) -> list[bytes]:
        """Append the parked events again, and return them."""
        events: list[bytes] = []
        with taken(self.parked_path) as mine:
            if mine:
                for line in self.parked_path.read_bytes().splitlines():
                    try:
                        events.append(_event_of(msgspec.json.decode(line, type=_Parked).event))
                    except msgspec.DecodeError:  # its event was not struck from the spool, and is parked again
                        logger.warning("%s has a line that is not whole, which is left out", self.parked_path)
                self.append(events, left)
        return events

    def close(self, *, keep: bool) -> None:
        """Let go of the file; with `keep` whoever comes next adopts it."""
        if keep:
            os.close(self._fd)
        else:
            self._drop()
        self._fd, self._path = -1, None

    def _drop(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._fd)

    def _sync_folder(self) -> None:
        fd = os.open(self._rules.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)  # else the file's name may be lost with the machine
        finally:
            os.close(fd)


def _keep_damaged(path: Path, left: int) -> None:
    kept = path.with_suffix(DAMAGED)
    with suppress(FileExistsError):  # by a try before
        os.link(path, kept)
    logger.critical("events are lost in %d bytes of %s, which can't be read: the file is kept", left, kept)


class _Parked(msgspec.Struct):
    event: dict[str, msgspec.Raw] | str


def _kept(event: bytes) -> msgspec.Raw | str:
    try:
        msgspec.json.decode(event, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return event.decode(errors="backslashreplace")
    return msgspec.Raw(event)


def _event_of(parked: dict[str, msgspec.Raw] | str) -> bytes:
    return parked.encode() if isinstance(parked, str) else msgspec.json.encode(parked)
