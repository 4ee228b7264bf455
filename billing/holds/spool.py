"""The spool: a second copy, on local disk, of debits that wait for Postgres.

Redis's journal serves when a process is lost, the process's memory when Redis is lost; the spool when both are lost at
once. What a killed process wrote to a file the kernel keeps, so nothing is synced to the disk: a machine that loses
power loses the spool's last seconds with the process.

A gateway appends to segments of its own, locked (flock(2)) for as long as it lives,
and removes each when Postgres has its debits. Whoever finds a segment that nobody has locked writes its debits to the
ledger, where their request ids make that harmless, and removes it.

The form on disk is that of `billing.wal_segment`: a record has a debit as it stands in the journal of Redis.
"""

import errno
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from billing.ledger.debits import Debit, NewerLayout, decode_debit, encode_debit
from billing.wal_segment import begin_segment, record_of, records_in, segments_in

logger = logging.getLogger(__name__)

SUFFIX: Final = ".debits"
SEGMENT_BYTES: Final = 4 * 1024 * 1024
MOST_BYTES: Final = 128 * 1024 * 1024
"""Of all segments of one process: `max_unsettled` debits by default, with room. What is beyond has no second copy."""
FEW_OF: Final = 4
"""When a segment begins, what is left of older ones is moved there, where that is no more than one of so many."""
TRIMMED_BYTES: Final = 64 * 1024
"""A smaller segment is not emptied each time that all of its debits are written: writing them again is harmless."""


@dataclass(slots=True)
class _Segment:
    """One file. `left` are its debits that Postgres does not have yet, by request id, of `made` that it has."""

    path: Path
    fd: int
    size: int = 0
    made: int = 0
    left: dict[str, Debit] = field(default_factory=dict)


class Spool:
    """Appends the debits of one process to `folder`, which is made if missing, for its user alone. Raises OSError where
    it can't be used. Once it is made no method raises: without room there is no second copy, and the log says so."""

    def __init__(self, folder: Path, gateway_id: str) -> None:
        self.folder = folder
        self._gateway_id = gateway_id
        self._segments: list[_Segment] = []
        self._segment_of: dict[str, _Segment] = {}
        """By request id, of what Postgres does not have yet."""
        self._made = self._waiting = self._bytes = 0
        self._failed = False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._begin_segment()

    def _begin_segment(self) -> _Segment:
        path = self.folder / f"{self._gateway_id}.{self._made}{SUFFIX}"
        self._made += 1
        self._segments.append(_Segment(path, begin_segment(path)))
        return self._segments[-1]

    def add(self, debit: Debit) -> None:
        """Append a debit: one write(2) of some 600 bytes."""
        self._waiting += 1
        if not self._segments:  # closed: this process ends
            return
        if self._failed and self._waiting > 1:
            return
        payload = encode_debit(debit)
        try:
            self._append(record_of(payload), debit)
        except OSError as error:
            if not self._failed:
                logger.warning("debits have no second copy in %s for now: %s", self.folder, error)
            self._failed = True  # nothing follows a record that may be torn, until Postgres has all debits

    def _append(self, record: bytes, debit: Debit) -> None:
        segment = self._segments[-1]
        if self._failed or segment.size >= SEGMENT_BYTES:
            segment = self._begin_segment()
            self._failed = False
            self._remove_written()
            self._move_few_left(segment)
        self._write(segment, record, (debit,))

    def _move_few_left(self, newest: _Segment) -> None:
        """Write those that wait for long, as an account's row is locked, behind one another: else one of them would
        keep a whole segment, and few of them all the room there is."""
        for segment in self._segments[:-1]:
            if len(segment.left) * FEW_OF <= segment.made:
                left = tuple(segment.left.values())
                self._write(newest, b"".join(record_of(encode_debit(each)) for each in left), left)
                segment.left.clear()
        self._remove_written()

    def _write(self, segment: _Segment, record: bytes, debits: Sequence[Debit]) -> None:
        if self._bytes + len(record) > MOST_BYTES:
            raise OSError(errno.EFBIG, "too many wait for Postgres")
        segment.size += len(record)
        self._bytes += len(record)
        if os.write(segment.fd, record) != len(record):
            raise OSError(errno.ENOSPC, "a debit was written in part")
        segment.made += len(debits)
        for debit in debits:
            segment.left[debit.request_id] = debit
            self._segment_of[debit.request_id] = segment

    def written(self, debits: Iterable[Debit]) -> None:
        """Strike debits that Postgres has, each of which was added, in whatever order."""
        for debit in debits:
            self._waiting -= 1
            segment = self._segment_of.pop(debit.request_id, None)
            if segment is not None:
                segment.left.pop(debit.request_id, None)
        self._remove_written()
        last = self._segments[-1] if self._segments else None
        if last is not None and not last.left and last.size > TRIMMED_BYTES:
            with suppress(OSError):
                os.ftruncate(last.fd, 0)
                self._bytes -= last.size
                last.size = last.made = 0

    def _remove_written(self) -> None:
        for segment in self._segments[:-1]:
            if not segment.left:
                self._segments.remove(segment)
                self._remove(segment)

    def _remove(self, segment: _Segment) -> None:
        self._bytes -= segment.size
        with suppress(OSError):
            segment.path.unlink()
        os.close(segment.fd)

    def close(self) -> None:
        """Leave what Postgres does not have yet to whoever finds it."""
        segments, self._segments = self._segments, []
        for segment in segments:
            if segment.left:
                os.close(segment.fd)
            else:
                self._remove(segment)


def left_behind(folder: Path) -> list[Path]:
    """Return segments in a folder, of living processes too; none where there is no such folder."""
    return segments_in(folder, SUFFIX)


def read_debits(path: Path, on_newer: Callable[[], None] | None = None) -> list[Debit]:
    """Return the debits of a segment, up to the first record that is not whole; `on_newer` is called for each that a
    newer release wrote, and that is left out. Raises OSError."""
    raw, found = path.read_bytes(), list[Debit]()
    payloads, end = records_in(raw)
    for payload in payloads:
        try:
            found.append(decode_debit(payload))
        except NewerLayout:
            if on_newer is not None:
                on_newer()
        except (ValueError, msgspec.MsgspecError) as error:
            logger.critical("a debit in %s can't be read, and is skipped: %s", path, error)
    if end < len(raw):
        logger.warning("%s ends in a record that is not whole: its process was killed while writing it", path)
    return found
