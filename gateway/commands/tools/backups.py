"""What a tool's files held before `metergate connect` first changed them, to be restored byte by byte.

A folder for each tool has the old files and `written.json`, with the digest of what was written: a file that somebody
has changed since is left alone.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from billing.errors import MetergateError
from gateway.commands.first_start import FILE_MODE
from gateway.commands.tools.changes import Change
from gateway.commands.tools.keys import FOLDER_MODE, replace_file

_INDEX: Final = "written.json"


class NothingToUndo(MetergateError):
    """A tool has no backup."""


class _File(msgspec.Struct):
    path: str
    backup: str | None
    """The old file's name in the folder; None where there was no file."""
    mode: int
    written_sha256: str


class Backups:
    """The backups of one tool. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, changes: Sequence[Change]) -> None:
        """Keep what is to be replaced. What an earlier change has kept stays: it is older."""
        files = {file.path: file for file in self._index()}
        self.folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        for change in changes:
            path, digest = str(change.path), hashlib.sha256(change.after).hexdigest()
            known = files.get(path)
            if known is not None:
                known.written_sha256 = digest
                continue
            name = None
            if change.before is not None:
                name = f"{len(files)}-{change.path.name}"
                replace_file(self.folder / name, change.before, FILE_MODE)
            files[path] = _File(path, name, change.before_mode, digest)
        replace_file(self.folder / _INDEX, msgspec.json.encode(list(files.values())), FILE_MODE)

    def restore(self) -> tuple[list[Path], list[Path]]:
        """Restore all files; those restored, and those that were left because they have changed since. Raises
        `NothingToUndo`."""
        files = self._index()
        if not files:
            raise NothingToUndo("there is no backup")
        restored, left = [], []
        for file in files:
            path = Path(file.path)
            if not _is_as_written(path, file):
                left.append(path)
                continue
            if file.backup is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, (self.folder / file.backup).read_bytes(), file.mode)
            restored.append(path)
        if not left:
            self._remove()
        return restored, left

    def _index(self) -> list[_File]:
        try:
            return msgspec.json.decode((self.folder / _INDEX).read_bytes(), type=list[_File])
        except FileNotFoundError:
            return []

    def _remove(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()


def _is_as_written(path: Path, file: _File) -> bool:
    """Return whether a file holds what was written there, or is gone, or holds again what it held before."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return True
    return hashlib.sha256(content).hexdigest() == file.written_sha256
