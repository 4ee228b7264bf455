"""What `metergate init` writes: copies of the shipped configuration, and every variable in an `.env`, to edit.

This file owns that nothing of the operator's is overwritten unasked, and that `.env`, which is there to hold secrets,
is readable by its owner alone from its first moment on.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from billing.errors import MetergateError
from gateway.config.example import environment_example
from gateway.config.settings import FILES, LOCAL_FOLDER, SHIPPED_FOLDER

ENV_FILE: Final = ".env"
_PRIVATE: Final = 0o600
_ORDINARY: Final = 0o644


class WouldOverwrite(MetergateError):
    """Some of the files are there already. `paths` names them."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        super().__init__(f"there already: {', '.join(map(str, paths))}")
        self.paths = paths


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    text: str
    mode: int


def init_folder(folder: Path, *, force: bool) -> tuple[Path, ...]:
    """Write `config/` and `.env` into a folder, which is made where it is missing; the paths written.

    Raises `WouldOverwrite`, with nothing written, if any of them is there and `force` is not given, and `OSError`.
    """
    files = [
        _File(folder / LOCAL_FOLDER / name, (SHIPPED_FOLDER / name).read_text("utf-8"), _ORDINARY) for name in FILES
    ]
    files.append(_File(folder / ENV_FILE, environment_example(), _PRIVATE))
    present = tuple(file.path for file in files if os.path.lexists(file.path))
    if present and not force:
        raise WouldOverwrite(present)
    (folder / LOCAL_FOLDER).mkdir(parents=True, exist_ok=True)
    for file in files:
        _write(file, force=force)
    return tuple(file.path for file in files)


def _write(file: _File, *, force: bool) -> None:
    """A whole file or none, by a name of its own first: whoever reads meanwhile sees the old one or the new one."""
    temporary = file.path.with_name(f"{file.path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file.mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(file.text)
        if force:
            temporary.replace(file.path)
            return
        try:
            os.link(temporary, file.path)  # unlike a rename, it never replaces what has come meanwhile
        except FileExistsError as error:
            raise WouldOverwrite((file.path,)) from error
    finally:
        temporary.unlink(missing_ok=True)
