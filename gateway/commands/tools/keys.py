"""The key that a tool is given, and the file in which it is kept: tools refer to that file where they can."""

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from billing.cli.commands import interruptible
from billing.cli.output import REFUSED, USAGE, CommandFailed
from billing.cli.session import auth_folder
from gateway.commands.first_start import FILE_MODE, LIMIT_BYTES, first_key_file, read_key_file
from gateway.commands.tools.settings import KEY_VARIABLE
from gateway.config.secret import Secret

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
