"""`metergate connect TOOL`: writes the settings with which a coding agent uses this gateway."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli import REFUSED, USAGE, CommandFailed, Output, Shown, add_command
from billing.cli.options import RESULT
from gateway.commands.tools.settings import TOOLS, Place, Target, Tool

if TYPE_CHECKING:
    from gateway.commands.tools.changes import Backups, Change, FoundKey
    from gateway.commands.tools.settings import FileValues

# Where `metergate up` listens.
DEFAULT_URL: Final = "http://127.0.0.1:8080"
ToolName = Annotated[str, typer.Argument(metavar="TOOL", help=f"One of: {', '.join(TOOLS)}.", show_default=False)]


def add_connect(app: typer.Typer) -> None:
    """Add it."""
    add_command(app, "connect", connect, RESULT | {"api_url"})


def connect(
    output: Output,
    name: ToolName,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="A model to use, the first one by default; several times."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that holds the key, instead of METERGATE_API_KEY.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Restore the files as they were before.")] = False,
) -> int:
    """Write the settings of a coding agent for this gateway.

    Shows the difference and keeps the old files, which --undo restores. The key is that of --key-file, else of
    METERGATE_API_KEY, else the one that the first `metergate up` made, else it is asked for.
    """
    tool = TOOLS.get(name)
    if tool is None:
        raise CommandFailed(f"There is no tool {name!r}: it is one of {', '.join(TOOLS)}.", USAGE)
    from gateway.commands.tools.changes import Backups, own_folder

    backups = Backups(own_folder(os.environ) / "connected" / tool.name)
    try:
        return _undo(tool, backups, output) if undo else _connect(tool, backups, output, (models, key_file, dry_run))
    except OSError as error:
        raise CommandFailed(f"Cannot write {error.filename or tool.title}: {error.strerror}.", REFUSED) from error


def _connect(tool: Tool, backups: "Backups", output: Output, given: tuple[list[str] | None, Path | None, bool]) -> int:
    from gateway.commands.tools.changes import keep_key

    models, key_file, dry_run = given
    found, target = _target(output, models or [], key_file)
    changes, refused = _changes(tool.files(Place(Path.home(), os.environ), target))
    needed = [change for change in changes if change.is_needed]
    if not dry_run and not refused:
        keep_key(found)
        _write(needed, backups)
    parts = [change.diff(target.key) for change in needed]
    parts += [part for file in refused for part in _by_hand(file, target)]
    parts += [_summary(tool, needed, dry_run=dry_run, refused=bool(refused)), tool.note]
    data = {
        "tool": tool.name,
        "written": [] if dry_run or refused else [str(change.path) for change in needed],
        "changes": [{"path": str(change.path), "diff": change.diff(target.key)} for change in needed],
        "by_hand": [str(file.path) for file in refused],
    }
    output.show(Shown(data, tuple(part for part in parts if part)))
    return REFUSED if refused else 0


def _target(output: Output, models: list[str], key_file: Path | None) -> "tuple[FoundKey, Target]":
    from gateway.commands.data_folder import explained_misuse, find_own_gateway
    from gateway.commands.tools.changes import find_key
    from gateway.config.environment import command_environment

    with explained_misuse():
        environment = command_environment(os.environ)
        found = find_key(os.environ, key_file, environment.data_dir)
        url = output.common.api_url or environment.api_url
        own = find_own_gateway(environment.data_dir) if url is None else None
    url = (url or (own.url if own else DEFAULT_URL)).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise CommandFailed(f"{url!r} is no address of a gateway: it begins with https:// or http://.", USAGE)
    return found, Target(url.removesuffix("/v1"), found.key, found.file, tuple(models))


def _changes(wanted: "list[FileValues]") -> "tuple[list[Change], list[FileValues]]":
    """Return the changes of files, and the files that can't be changed safely."""
    from gateway.commands.tools.changes import change_of
    from gateway.commands.tools.formats import CannotEdit

    changes, refused = [], []
    for file in wanted:
        try:
            changes.append(change_of(file))
        except CannotEdit:
            refused.append(file)
    return changes, refused


def _write(needed: "list[Change]", backups: "Backups") -> None:
    from gateway.commands.tools.changes import replace_file

    if needed:
        backups.keep(needed)  # first: what is written can be undone at every moment
    for change in needed:
        change.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(change.path, change.after, change.after_mode)


def _by_hand(file: "FileValues", target: Target) -> tuple[str, str]:
    """Return what is to be added to a file by its user."""
    from gateway.commands.tools.formats import set_values

    shown = set_values(file.form, "", file.values).replace(target.key.reveal(), "YOUR_KEY")
    return f"{file.path} can't be changed safely. Nothing was written. Add this to it:", shown


def _summary(tool: Tool, needed: "list[Change]", *, dry_run: bool, refused: bool) -> str:
    if refused:
        return ""
    if not needed:
        return f"{tool.title} has these settings already."
    if dry_run:
        return f"Nothing was written. Without --dry-run, {tool.title} gets these settings."
    return f"{tool.title} uses this gateway now: {tool.start}. To undo it: metergate connect {tool.name} --undo"


def _undo(tool: Tool, backups: "Backups", output: Output) -> int:
    from gateway.commands.tools.changes import NothingToUndo

    try:
        restored, left = backups.restore()
    except NothingToUndo as error:
        raise CommandFailed(f"{tool.title} was not connected by this command: there is nothing to undo.") from error
    parts = [f"Restored: {', '.join(map(str, restored))}."] if restored else []
    parts += [f"{path} has changed since and was left as it is; the old one is in {backups.folder}." for path in left]
    data = {"tool": tool.name, "restored": list(map(str, restored)), "left": list(map(str, left))}
    output.show(Shown(data, tuple(parts)))
    return REFUSED if left else 0
