"""Where backups are kept: a file, a folder that gets one for each time, or a bucket of an S3-compatible store.

In a folder and in a bucket a backup is called by its time, so that the newest ones are known by their names alone, and
older ones can be removed. A bucket is `s3://BUCKET/PREFIX`; its keys, its region and its endpoint are read from the
variables that every client of S3 reads (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL). What
is written there is whole or not there.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from billing.cli import USAGE, CommandFailed

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME: Final = "s3://"
NAME: Final = "metergate-%Y%m%dT%H%M%SZ.backup"
# What a backup is called while it is written; one that was killed leaves it.
UNFINISHED: Final = ".{name}.new"
NAMED: Final = re.compile(r"metergate-\d{8}T\d{6}Z\.backup")
# An object has at most 10,000 parts: 320 GB.
PART_BYTES: Final = 32 << 20
PARTS_AT_ONCE: Final = 2
TRIES: Final = 5
TRIED_S: Final = 180
ENDPOINT: Final = "AWS_ENDPOINT_URL"


def name_at(moment: datetime) -> str:
    """Return what a backup of this time is called."""
    return moment.strftime(NAME)


def in_bucket(place: str) -> bool:
    """Return whether a place is one of S3."""
    return place.startswith(SCHEME)


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
            from obstore.store import S3Store
        except ImportError as error:
            raise CommandFailed("A bucket needs the library obstore: install metergate[s3].", USAGE) from error
        name, _, prefix = place.removeprefix(SCHEME).partition("/")
        if not name:
            raise CommandFailed(f"{place}: a bucket is named s3://BUCKET/PREFIX.", USAGE)
        insecure = environ.get(ENDPOINT, "").startswith("http://")
        with _explained(place):
            store = S3Store(
                name,
                prefix=prefix.rstrip("/") or None,
                client_options={"allow_http": insecure},
                retry_config=_retries(),
            )
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


def _retries() -> Any:
    from datetime import timedelta

    return {"max_retries": TRIES, "retry_timeout": timedelta(seconds=TRIED_S)}


class _explained:
    """Turns what the library raises into one sentence; it names the request, never a key."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, CommandFailed):
            return
        try:
            from obstore.exceptions import BaseError
        except ImportError:
            return
        if isinstance(error, BaseError | FileNotFoundError | PermissionError):
            first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise CommandFailed(f"{self._place}: {first}") from error
