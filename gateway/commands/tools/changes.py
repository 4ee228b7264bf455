"""Changes of a tool's files: what they hold, what they are to hold, what of that is shown, and what they held before,
to be restored byte by byte. And the key that a tool is given, with the file in which it is kept: tools refer to that
file where they can.

`Backups` has a folder for each tool, with the old files and `written.json`, the digests of what was written: a file
that somebody has changed since is left alone.
"""

import difflib
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from billing.cli.commands import interruptible
from billing.cli.output import REFUSED, USAGE, CommandFailed
from billing.cli.session import auth_folder
from billing.errors import MetergateError
from gateway.commands.data_folder import FILE_MODE, LIMIT_BYTES, first_key_file, read_key_file
from gateway.commands.tools.formats import CannotEdit, set_values
from gateway.commands.tools.settings import KEY_VARIABLE, FileValues
from gateway.config.secret import HIDDEN, Secret

FOLDER_MODE: Final = 0o700


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key and its file. `is_new` where the file does not hold it yet."""

    key: Secret
    file: Path
    is_new: bool = False


def own_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of what this command keeps. Raises `CommandFailed`."""
    return auth_folder(environ).parent


def find_key(environ: Mapping[str, str], given: Path | None, data_dir: Path) -> FoundKey:
    """Return the key of `--key-file`, else of METERGATE_API_KEY, else the one that was kept, else that of the first
    `metergate up`, else what is typed. Raises `CommandFailed` and `BadKeyFile`."""
    kept = own_folder(environ) / "api-key"
    if given is not None:
        return FoundKey(read_key_file(given), given.absolute())
    if value := environ.get(KEY_VARIABLE, "").strip():
        return FoundKey(_checked(value), kept, is_new=True)
    for file in (kept, first_key_file(data_dir)):
        if file.exists():
            return FoundKey(read_key_file(file), file.absolute())
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"There is no key: set {KEY_VARIABLE}, or name a file that holds it with --key-file.", USAGE
        )
    import getpass

    try:
        with interruptible():
            typed = getpass.getpass("Key of this gateway (mg_...): ").strip()
    except (EOFError, KeyboardInterrupt) as error:
        raise CommandFailed("Nothing was done.", REFUSED) from error
    return FoundKey(_checked(typed), kept, is_new=True)


def _checked(text: str) -> Secret:
    if not text or len(text) > LIMIT_BYTES or not text.isascii() or not text.isprintable() or " " in text:
        raise CommandFailed("This is no key: one line of printable characters was expected.", USAGE)
    return Secret(text)


def keep_key(found: FoundKey) -> None:
    """Write a key that is not in its file yet. Raises `OSError`."""
    if found.is_new:
        found.file.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        replace_file(found.file, f"{found.key.reveal()}\n".encode(), FILE_MODE)


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write a whole file, readable as `mode` says from its first moment on: a reader sees the old one or the new one.
    A link stays one. Raises `OSError`."""
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


NEW_MODE: Final = 0o644
# Settings that are longer are none.
MOST_BYTES: Final = 4 * 1024 * 1024
CONTEXT_LINES: Final = 2
_SECRET_FIELD: Final = re.compile(
    r"""(?P<name>["']?[\w.-]*(?:key|token|secret|password)["']?\s*[:=]\s*)(?P<value>"[^"]*"|'[^']*'|[^\s,#]+)""",
    re.IGNORECASE,
)
_FIELD: Final = re.compile(r"""(?P<name>[-+ ]\s*["']?[\w./-]+["']?\s*[:=]\s*)(?P<value>[^{[\s].*)""")


@dataclass(frozen=True, slots=True)
class Change:
    """A file with its bytes and mode before and after; `before` is None where there was none."""

    path: Path
    before: bytes | None = field(repr=False)
    after: bytes = field(repr=False)
    before_mode: int
    after_mode: int
    shown: frozenset[str] | None = None
    """Of a file that holds secrets: values that may be shown. None: all but those with a secret's name."""

    @property
    def is_needed(self) -> bool:
        """Return whether the file is to be written."""
        return (self.before, self.before_mode) != (self.after, self.after_mode)

    def diff(self, key: Secret) -> str:
        """Return what changes, without secrets: neither the key, nor what others stand in the file."""
        before, after = ((text or b"").decode(errors="replace").splitlines() for text in (self.before, self.after))
        old = "/dev/null" if self.before is None else str(self.path)
        lines = difflib.unified_diff(before, after, old, str(self.path), n=CONTEXT_LINES, lineterm="")
        return "\n".join(self._hidden(line, key) for line in lines)

    def _hidden(self, line: str, key: Secret) -> str:
        line = line.replace(key.reveal(), HIDDEN)
        if self.shown is None or line.startswith(("+++", "---", "@@")):
            return _SECRET_FIELD.sub(lambda found: found["name"] + _hidden_value(found["value"]), line)
        found = _FIELD.match(line)
        if found is None or found["value"].strip("\"',") in self.shown:
            return line
        return found["name"] + HIDDEN


def _hidden_value(value: str) -> str:
    """Return what is shown of a value with a name like that of a secret: references to one are none."""
    bare = value.strip("\"'")
    return value if bare.startswith(("{", "$", "!", "[", "cat")) or bare == KEY_VARIABLE else HIDDEN


def change_of(wanted: FileValues) -> Change:
    """Return the change that sets these values. Raises `CannotEdit` and `OSError`."""
    before, mode = _read(wanted.path)
    try:
        text = set_values(wanted.form, (before or b"").decode("utf-8"), wanted.values)
    except UnicodeDecodeError as error:
        raise CannotEdit("it is no UTF-8 text") from error
    after_mode = mode if before is not None else NEW_MODE
    shown = frozenset(_texts(list(wanted.values.values()))) if wanted.holds_key else None
    return Change(wanted.path, before, text.encode(), mode, FILE_MODE if wanted.holds_key else after_mode, shown)


def _texts(value: object) -> Iterator[str]:
    match value:
        case dict():
            for each in value.values():
                yield from _texts(each)
        case list():
            for each in value:
                yield from _texts(each)
        case _:
            yield str(value)


def _read(path: Path) -> tuple[bytes | None, int]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
            mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None, 0
    if len(content) > MOST_BYTES:
        raise CannotEdit("it is too long")
    return content, mode


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
