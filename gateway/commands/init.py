"""`metergate init`."""

from pathlib import Path
from typing import Annotated

import typer

from billing.cli import REFUSED, CommandFailed, Output, Shown, add_command


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
    from gateway.commands.init_folder import WouldOverwrite, init_folder

    try:
        written = init_folder(folder, force=force)
    except WouldOverwrite as error:
        said = f"There already: {', '.join(map(str, error.paths))}. Nothing of it was touched; --force overwrites."
        raise CommandFailed(said, REFUSED) from error
    except OSError as error:
        raise CommandFailed(f"Cannot write {error.filename or folder}: {error.strerror}.", REFUSED) from error
    paths = [str(path) for path in written]
    how = "Started there, metergate reads config/ by itself; .env is for docker compose, or: set -a; . ./.env; set +a"
    output.show(Shown({"written": paths}, (f"Written: {', '.join(paths)}.", how)))
