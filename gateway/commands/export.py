"""`metergate export`: usage events of a time, as files of a folder, by hour."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli import USAGE, CommandFailed, Output, Shown, add_command
from billing.times import TimeError, parse_rfc3339
from gateway.commands.store_options import open_database, refuse_api_url

if TYPE_CHECKING:
    from billing.database.connection import Database
    from billing.exports.folder import Format

# The longest statement: that which sorts all events of the time.
STATEMENT_S: Final = 3600.0
# Events in memory.
AT_ONCE: Final = 2_000


def add_export(app: typer.Typer) -> None:
    """Add it."""
    add_command(app, "export", export)


async def export(
    output: Output,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where the files go.", show_default=False)],
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="From then on, such as 2027-01-31.", show_default=False)
    ],
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before then; else until now.")] = None,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="csv or parquet.")] = "csv",
) -> None:
    """Write usage events as files, one for each hour of their admission.

    A file replaces the one of the same hour that an earlier run has written: choose whole hours. Parquet needs pyarrow.
    """
    refuse_api_url(output)
    from billing.exports.folder import FORMATS
    from billing.exports.sinks import SinkFailed

    format = next((each for each in FORMATS if each == format_), None)
    if format is None:
        raise CommandFailed(f"--format is one of {', '.join(FORMATS)}.", USAGE)
    begin, end = _moment("--since", since), datetime.now(UTC) if until is None else _moment("--until", until)
    if begin >= end:
        raise CommandFailed("--since must be before --until.", USAGE)
    try:
        async with open_database(output, STATEMENT_S) as database:
            events, charged_nano, files = await _write(database, to, format, begin, end)
    except SinkFailed as failed:
        raise CommandFailed(str(failed)) from failed
    except OSError as error:
        raise CommandFailed(f"{to} can't be written: {error.strerror}") from error
    from billing.money import format_usd

    charge_usd, paths = format_usd(charged_nano), [str(each) for each in files]
    data = {"events": events, "charge_usd": charge_usd, "charged_usd": charge_usd, "files": paths}
    output.show(Shown(data, (f"{events} events, charged {charge_usd} USD, are in {len(files)} files.",)))


def _moment(option: str, text: str) -> datetime:
    try:
        return parse_rfc3339(text)
    except TimeError as error:
        raise CommandFailed(f"{option}: {error}.", USAGE) from error


async def _write(
    database: "Database", folder: Path, format: "Format", begin: datetime, end: datetime
) -> tuple[int, int, list[Path]]:
    """Write the events of one snapshot, in the order of their admission, so that one file is open at a time."""
    from billing.database.connection import queries
    from billing.exports.folder import HourFile, file_name
    from billing.exports.worker import event_of

    events, charged_nano, files = 0, 0, []
    open_file: tuple[datetime, HourFile] | None = None
    try:
        async with database.transaction(snapshot=True) as connection:
            query = queries("billing.exports")("events_between")
            cursor = await connection.cursor(query, begin, end)
            while rows := await cursor.fetch(AT_ONCE):
                found = [event_of(row) for row in rows]
                for hour in sorted({event.hour for event in found}):
                    if open_file is not None and open_file[0] != hour:
                        open_file[1].finish()
                        open_file = None
                    if open_file is None:
                        open_file = (hour, HourFile(folder, file_name(hour, None, format), format))
                        files.append(open_file[1].path)
                    open_file[1].write([event for event in found if event.hour == hour])
                events += len(found)
                charged_nano += sum(event.charged_nano for event in found)
        if open_file is not None:
            open_file[1].finish()
            open_file = None
    finally:
        if open_file is not None:
            with suppress(OSError):
                open_file[1].drop()
    return events, charged_nano, files
