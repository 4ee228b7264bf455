"""`metergate body-logs`: bodies that gateways have written, read by whoever has their place and their key."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from billing.cli import USAGE, CommandFailed, Output, Shown, add_command, group

if TYPE_CHECKING:
    from gateway.body_logs.places import Place
    from gateway.body_logs.sealed_file import Keys

# Files that `list` names.
MOST_LISTED: Final = 10_000
Account = Annotated[str | None, typer.Option("--account", metavar="ID", help="Of this account alone.")]


def add_body_logs(app: typer.Typer) -> None:
    """Add the group."""
    logs = group("Logs of bodies: what requests asked and were answered.")
    add_command(logs, "list", list_files)
    add_command(logs, "show", show)
    add_command(logs, "decrypt", decrypt)
    app.add_typer(logs, name="body-logs")


async def list_files(
    output: Output,
    day: Annotated[str | None, typer.Option("--day", metavar="DAY", help="Of this day (UTC), 2027-01-31.")] = None,
    account: Account = None,
) -> None:
    """List files. Their names have the day, the account, and the first and the last request."""
    with _explained():
        place, _ = _opened()
        days = await place.days() if day is None else [_day(day)]
        names = [name for each in days for name in await place.names(each, account)][:MOST_LISTED]
    output.show(Shown({"data": names}, tuple(names) or ("There are no files.",)))


async def show(
    output: Output,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The x-request-id of an answer.")],
    account: Account = None,
) -> None:
    """Show the bodies of one request."""
    with _explained():
        place, keys = _opened()
        first = _day_of(request_id)
        for day in await place.days():
            if day >= first and (line := await _found(place, keys, day, account, request_id)) is not None:
                output.show(Shown(msgspec.json.decode(line), (msgspec.json.format(line, indent=2).decode(),)))
                return
    raise CommandFailed(
        f"No file has request {request_id}. Its bodies were not written (docs/body-logs.md), not yet, or are removed."
    )


async def decrypt(
    output: Output,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file, or a name as `list` shows it.")],
) -> None:
    """Write the lines of a file: JSON, one request each."""
    with _explained():
        place, keys = _opened()
        sealed = _read(Path(file)) or await place.get(_name(file))
        lines = [line.decode() for line in keys.lines(sealed)]
    output.show(Shown({"data": [msgspec.json.decode(line) for line in lines]}, tuple(lines)))


async def _found(place: "Place", keys: "Keys", day: str, account: str | None, request_id: str) -> bytes | None:
    """Return the line of a request in the files of a day."""
    from gateway.body_logs.places import may_have
    from gateway.body_logs.sealed_file import FileBroken, read_head

    wanted = msgspec.json.encode({"request_id": request_id})[:-1] + b","
    for name in await place.names(day, account):
        if not may_have(name, request_id):
            continue
        sealed = await place.get(name)
        if read_head(sealed)[0].account != name.split("/")[1]:
            raise FileBroken(f"{name}: the file is another account's.")
        for line in keys.lines(sealed):
            if line.startswith(wanted):
                return line
    return None


def _opened() -> tuple["Place", "Keys"]:
    from gateway.commands.data_folder import explained_misuse
    from gateway.config.settings import load_settings
    from gateway.runtime.body_logs import place_and_keys

    with explained_misuse():
        settings = load_settings(os.environ, mode="command", with_prices=False)
    if settings.body_logs is None:
        raise CommandFailed("No bodies are logged: metergate.yaml has no `body_logs` (docs/body-logs.md).", USAGE)
    return place_and_keys(settings.body_logs)


def _read(file: Path) -> bytes | None:
    """Return what a file of this machine has; None where there is none."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandFailed(f"Cannot read {file}: {error.strerror}.") from error


def _name(text: str) -> str:
    """Return the name of a file in the place of all."""
    from gateway.body_logs.places import ACCOUNT, DAY, NAME

    parts = text.split("/")
    if len(parts) != 3 or not all(form.fullmatch(part) for form, part in zip((DAY, ACCOUNT, NAME), parts, strict=True)):
        raise CommandFailed(f"There is no file {text}.", USAGE)
    return text


def _day(text: str) -> str:
    from gateway.body_logs.places import DAY

    if not DAY.fullmatch(text):
        raise CommandFailed("--day is a day such as 2027-01-31.", USAGE)
    return text


def _day_of(request_id: str) -> str:
    """Return the first day on which a request can have been written, by its id."""
    from ulid import ULID

    try:
        return ULID.from_str(request_id).datetime.date().isoformat()
    except ValueError as error:
        raise CommandFailed(f"{request_id} is no id of a request.", USAGE) from error


@contextmanager
def _explained() -> Iterator[None]:
    from gateway.body_logs.sealed_file import FileBroken
    from gateway.object_stores import StoreFailed

    try:
        yield
    except (StoreFailed, FileBroken) as error:
        raise CommandFailed(str(error)) from error
