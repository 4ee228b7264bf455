"""Segments of a write-ahead log: files of records that one process appends to, and another takes once that has ended.

A segment is locked (flock(2)) by its process for as long as that lives, and found unlocked by whoever comes after.
Reading ends at the first record that is torn or damaged: it was the last that its process wrote.

    record   length of the payload I4, CRC-32 of the payload I4, the payload; little-endian
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# Bytes of a record that is cut off; a longer rest has records in it that can't be told from each other.
LONGEST_TORN: Final = 1024 * 1024
_HEAD: Final = struct.Struct("<II")


def record_of(payload: bytes) -> bytes:
    """Return a payload as it stands in a segment."""
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def records_in(raw: bytes) -> tuple[list[bytes], int]:
    """Return the payloads of a segment, up to the first record that is not whole, and where that begins."""
    found: list[bytes] = []
    at = 0
    while at + _HEAD.size <= len(raw):
        length, checksum = _HEAD.unpack_from(raw, at)
        payload = raw[at + _HEAD.size : at + _HEAD.size + length]
        if not payload or len(payload) < length or zlib.crc32(payload) != checksum:
            break  # nothing but zeros is what a machine may leave that has lost its power
        found.append(payload)
        at += _HEAD.size + length
    return found, at


def is_torn(rest: bytes) -> bool:
    """Return whether these bytes, at which the reading of a segment has ended, may be of a process or machine that died
    in writing it: nothing, zeros, or a record that is cut off."""
    if len(rest) < _HEAD.size or not any(rest):
        return True
    length, _ = _HEAD.unpack_from(rest)
    return length > len(rest) - _HEAD.size and len(rest) <= LONGEST_TORN


def begin_segment(path: Path) -> int:
    """Create a segment, locked, for its user alone; return its file descriptor. Raises OSError."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(path)  # whoever looks for segments may have had it, and removed it, before it was locked
    except OSError:
        os.close(fd)
        raise
    return fd


def segments_in(folder: Path, suffix: str) -> list[Path]:
    """Return segments in a folder, of living processes too; none where there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == suffix)
    except OSError:
        return []


@contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Take a segment whose process has ended, and no one else; return whether it could be had. Removed at the end of
    the block unless that raises."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.stat(path).st_ino == os.fstat(fd).st_ino
        except OSError:  # locked, or removed by whoever had it before
            mine = False
        yield mine
        if mine:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)
