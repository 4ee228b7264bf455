"""`metergate init`: copies of the shipped configuration, and every variable in an `.env`, to edit.

This file owns that nothing of the operator's is overwritten unasked, and that `.env`, which is there to hold secrets,
is readable by its owner alone from its first moment on.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from billing.cli import REFUSED, CommandFailed, Output, Shown, add_command
from billing.errors import MetergateError

ENV_FILE: Final = ".env"
_PRIVATE: Final = 0o600
_ORDINARY: Final = 0o644


def add_init(app: typer.Typer) -> None:
    """Add it."""
    add_command(app, "init", init)


async def init(
    output: Output,
    folder: Annotated[Path, typer.Argument(help="Where to.", metavar="[FOLDER]")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Write config/ and .env to edit.

    Copies of the shipped metergate.yaml, prices.yaml and plans.yaml into config/ of FOLDER (here), and every variable
    with its default into .env, which its owner alone may read. Files that are there stay, unless --force is given.
    """
    try:
        written = init_folder(folder, force=force)
    except WouldOverwrite as error:
        message = f"There already: {', '.join(map(str, error.paths))}. Nothing of it was touched; --force overwrites."
        raise CommandFailed(message, REFUSED) from error
    except OSError as error:
        raise CommandFailed(f"Cannot write {error.filename or folder}: {error.strerror}.", REFUSED) from error
    paths = [str(path) for path in written]
    how = "Started there, metergate reads config/ by itself; .env is for docker compose, or: set -a; . ./.env; set +a"
    output.show(Shown({"written": paths}, (f"Written: {', '.join(paths)}.", how)))


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
    from gateway.config.settings import environment_example
    from gateway.config.source import FILES, LOCAL_FOLDER, SHIPPED_FOLDER

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
    """Write a whole file or none, under a name of its own first: a reader sees the old one or the new one."""
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
