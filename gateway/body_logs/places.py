"""Where files of bodies are: a folder or a bucket. A file is DAY/ACCOUNT/FIRST-LAST-GATEWAY.jsonl.gz.sealed.

DAY is the one (UTC) on which it was written, so that what is too old is found by its name alone. FIRST and LAST are the
least and the largest id of its requests: which files may have one is known without opening them. A file has bodies of
one account, so that nobody who may read one account's sees another's, and an account's can be deleted.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from gateway.object_stores import StoreFailed, explained, in_bucket, open_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from obstore.store import S3Store

SUFFIX: Final = ".jsonl.gz.sealed"
DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
ACCOUNT: Final = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
NAME: Final = re.compile(r"([0-9A-Za-z]{1,64})-([0-9A-Za-z]{1,64})-[0-9A-Za-z]{1,64}" + re.escape(SUFFIX), re.ASCII)
# A file that is not whole yet.
UNDONE: Final = re.compile(rf"\.{NAME.pattern}\.new", re.ASCII)
FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
# Requests that fail at a bucket are made again by the library, for a moment; then the next round tries.
TRIES: Final = 1
TRIED_S: Final = 10.0


def file_name(day: str, account: str, ids: tuple[str, str], gateway: str) -> str:
    """Return the name of a file; `ids` are the least and the largest of its requests."""
    if not ACCOUNT.fullmatch(account):
        raise ValueError("an account's id is no name of a folder")
    return f"{day}/{account}/{ids[0]}-{ids[1]}-{gateway}{SUFFIX}"


def may_have(name: str, request_id: str) -> bool:
    """Return whether a file may have a request, by its name."""
    found = NAME.fullmatch(name.rpartition("/")[2])
    return found is not None and found[1] <= request_id <= found[2]


class Place(Protocol):
    """Where files are. Methods raise `StoreFailed`."""

    @property
    def is_shared(self) -> bool:
        """Return whether other machines write there as well."""

    async def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all; one of this name is replaced."""

    async def get(self, name: str) -> bytes:
        """Return what a file has."""

    async def days(self) -> list[str]:
        """Return the days of which there are files, the oldest first."""

    async def names(self, day: str, account: str | None = None) -> list[str]:
        """Return the files of a day, of one account or of all."""

    async def remove(self, day: str) -> int:
        """Remove the files of a day, and nothing that is not ours; return how many there were."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of this machine, of which at least `free_bytes` of its disk are left to others."""

    path: Path
    free_bytes: int
    is_shared: bool = False

    async def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        await asyncio.to_thread(self._put, self.path / name, data)

    def _put(self, file: Path, data: bytes) -> None:
        with _told(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, file.parent.parent, file.parent):  # of `parents`, only the last has the mode
                folder.mkdir(FOLDER_MODE, exist_ok=True)
            if shutil.disk_usage(self.path).free < self.free_bytes + len(data):
                raise StoreFailed(f"{self.path}: less than `folder_free_bytes` would be left on its disk")
            made = file.with_name(f".{file.name}.new")
            try:
                made.unlink(missing_ok=True)
                opened = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
                with os.fdopen(opened, "wb") as into:
                    into.write(data)
                    into.flush()
                    os.fsync(into.fileno())
                made.replace(file)
            finally:
                with suppress(OSError):
                    made.unlink(missing_ok=True)

    async def get(self, name: str) -> bytes:
        """Return what a file has."""
        return await asyncio.to_thread(self._get, name)

    def _get(self, name: str) -> bytes:
        with _told(self.path):
            return (self.path / name).read_bytes()

    async def days(self) -> list[str]:
        """Return the days of which there are files."""
        with _told(self.path):
            names = await asyncio.to_thread(_listed, self.path)
        return [name for name in names if DAY.fullmatch(name)]

    async def names(self, day: str, account: str | None = None) -> list[str]:
        """Return the files of a day."""
        return await asyncio.to_thread(self._names, day, account)

    def _names(self, day: str, account: str | None) -> list[str]:
        with _told(self.path):
            accounts = _listed(self.path / day) if account is None else [account]
            found = [f"{day}/{each}/{name}" for each in accounts for name in _listed(self.path / day / each)]
            return [name for name in found if NAME.fullmatch(name.rpartition("/")[2])]

    async def remove(self, day: str) -> int:
        """Remove the files of a day, and the folders that are empty then."""
        return await asyncio.to_thread(self._remove, day)

    def _remove(self, day: str) -> int:
        removed = 0
        with _told(self.path), _folder(self.path / day) as of_day:
            for account in _entries(of_day):
                if ACCOUNT.fullmatch(account.name) and account.is_dir(follow_symlinks=False):
                    with _folder(account.name, of_day) as folder:
                        removed += _removed(folder)
                    with suppress(OSError):  # it has what is not ours
                        os.rmdir(account.name, dir_fd=of_day)
        with suppress(OSError):
            (self.path / day).rmdir()
        return removed


@contextmanager
def _folder(path: Path | str, within: int | None = None) -> Iterator[int | None]:
    """Open a folder, by its name in another one; None where it is away, or is a link, which is never followed."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        yield None
        return
    try:
        yield opened
    finally:
        os.close(opened)


def _entries(folder: int | None) -> list[os.DirEntry[str]]:
    if folder is None:
        return []
    with os.scandir(folder) as found:
        return list(found)


def _removed(folder: int | None) -> int:
    """Remove the files of an account that we have written; return how many there were."""
    removed = 0
    for each in _entries(folder):
        if (NAME.fullmatch(each.name) or UNDONE.fullmatch(each.name)) and each.is_file(follow_symlinks=False):
            with suppress(FileNotFoundError):  # another process is at it as well
                os.unlink(each.name, dir_fd=folder)
                removed += 1
    return removed


def _is_ours(name: str, day: str) -> bool:
    """Return whether an object's name is DAY/ACCOUNT/NAME."""
    of_day, _, rest = name.partition("/")
    account, _, file = rest.partition("/")
    return of_day == day and ACCOUNT.fullmatch(account) is not None and NAME.fullmatch(file) is not None


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFailed(f"{path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and what the names of its objects begin with."""

    place: str
    store: S3Store
    is_shared: bool = True

    async def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        import obstore

        with explained(self.place):
            await obstore.put_async(self.store, name, data)

    async def get(self, name: str) -> bytes:
        """Return what an object has."""
        import obstore

        with explained(self.place):
            found = await obstore.get_async(self.store, name)
            return bytes(await found.bytes_async())

    async def days(self) -> list[str]:
        """Return the days of which there are objects."""
        import obstore

        with explained(self.place):
            listed = await obstore.list_with_delimiter_async(self.store)
        names = (prefix.rstrip("/").rpartition("/")[2] for prefix in listed["common_prefixes"])
        return sorted(name for name in names if DAY.fullmatch(name))

    async def names(self, day: str, account: str | None = None) -> list[str]:
        """Return the objects of a day."""
        import obstore

        found: list[str] = []
        with explained(self.place):
            async for batch in obstore.list(self.store, day if account is None else f"{day}/{account}"):
                found += [each["path"] for each in batch]
        return sorted(f"{day}/{path.partition(f'{day}/')[2]}" for path in found if NAME.fullmatch(path.rsplit("/")[-1]))

    async def remove(self, day: str) -> int:
        """Remove the objects of a day."""
        import obstore

        removed = 0
        with explained(self.place):
            async for batch in obstore.list(self.store, day):
                ours = [each["path"] for each in batch if _is_ours(each["path"], day)]
                if ours:
                    await obstore.delete_async(self.store, ours)
                removed += len(ours)
        return removed


def open_place(to: str, free_bytes: int, environ: Mapping[str, str]) -> Place:
    """Return a folder's or a bucket's place. Raises `StoreFailed`."""
    if not in_bucket(to):
        return Folder(Path(to), free_bytes)
    return Bucket(to.rstrip("/"), open_bucket(to, environ, tries=TRIES, tried_s=TRIED_S))
