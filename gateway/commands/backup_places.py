"""Where backups are kept: a file, a folder that gets one for each time, or a bucket of an S3-compatible store.

In a folder and in a bucket a backup is called by its time, so that the newest ones are known by their names alone, and
older ones can be removed. What is written there is whole or not there.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from billing.cli import USAGE, CommandFailed
from gateway.object_stores import SCHEME, NoSuchBucket, StoreFailed, explained, open_bucket

if TYPE_CHECKING:
    from obstore.store import S3Store

NAME: Final = "metergate-%Y%m%dT%H%M%SZ.backup"
# What a backup is called while it is written; one that was killed leaves it.
UNFINISHED: Final = ".{name}.new"
NAMED: Final = re.compile(r"metergate-\d{8}T\d{6}Z\.backup")
# An object has at most 10,000 parts: 320 GB.
PART_BYTES: Final = 32 << 20
PARTS_AT_ONCE: Final = 2
TRIES: Final = 5
TRIED_S: Final = 180


def name_at(moment: datetime) -> str:
    """Return what a backup of this time is called."""
    return moment.strftime(NAME)


def superseded(names: list[str], keep: int) -> list[str]:
    """Return those of our own names that are older than the `keep` newest ones."""
    return sorted((name for name in names if NAMED.fullmatch(name)), reverse=True)[keep:]


def prune_folder(folder: Path, keep: int) -> list[str]:
    """Remove the backups of a folder but the `keep` newest ones, and return their names. Raises `OSError`."""
    names = [each.name for each in folder.iterdir() if each.is_file()]
    gone = superseded(names, keep)
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    kept = sorted(name for name in names if NAMED.fullmatch(name) and name not in gone)
    for name in names:
        # One that is newer than the oldest that is kept may still be written.
        own = name.removeprefix(".").removesuffix(".new")
        if kept and name == UNFINISHED.format(name=own) and NAMED.fullmatch(own) and own < kept[0]:
            (folder / name).unlink(missing_ok=True)
    return gone


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and what its names begin with. Methods raise `CommandFailed`."""

    place: str
    store: "S3Store"

    @classmethod
    def of(cls, place: str, environ: Mapping[str, str] = os.environ) -> "Bucket":
        """Open `s3://BUCKET/PREFIX`."""
        try:
            store = open_bucket(place, environ, tries=TRIES, tried_s=TRIED_S)
        except NoSuchBucket as error:
            raise CommandFailed(str(error), USAGE) from error
        except StoreFailed as error:
            raise CommandFailed(str(error)) from error
        return cls(place.rstrip("/"), store)

    async def put(self, name: str, file: Path) -> None:
        """Write a file under a name."""
        import asyncio

        import obstore

        with _explained(self.place):
            await asyncio.to_thread(
                obstore.put, self.store, name, file, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
            )

    async def get(self, name: str, file: Path) -> None:
        """Read what a name has into a file that is there."""
        import asyncio

        import obstore

        with _explained(self.place):
            found = await obstore.get_async(self.store, name)
            with file.open("wb") as into:
                async for piece in found.stream():
                    await asyncio.to_thread(into.write, piece)

    async def prune(self, keep: int) -> list[str]:
        """Remove the backups below the prefix but the `keep` newest ones, and return their names."""
        import obstore

        with _explained(self.place):
            listed = await obstore.list_with_delimiter_async(self.store)
            gone = superseded([each["path"].rpartition("/")[2] for each in listed["objects"]], keep)
            for name in gone:
                await obstore.delete_async(self.store, name)
            return gone


def split(place: str) -> tuple[str, str]:
    """Return the prefix and the name of an object, `s3://BUCKET/PREFIX/NAME`."""
    prefix, _, name = place.rpartition("/")
    if not name or not prefix.removeprefix(SCHEME.rstrip("/")).strip("/"):
        raise CommandFailed(f"{place}: an object is named s3://BUCKET/NAME.", USAGE)
    return prefix, name


@contextmanager
def _explained(place: str) -> Iterator[None]:
    try:
        with explained(place):
            yield
    except StoreFailed as error:
        raise CommandFailed(str(error)) from error
