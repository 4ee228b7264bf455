"""`metergate backup` and `metergate restore`: the whole database in one file, by Postgres's own tools.

The tools are those of the wheel of the embedded server, which also work with older servers; where the wheel has none
for this machine, those on PATH. A backup is one snapshot in pg_dump's custom format, taken while gateways go on. A
restore is one transaction: the database is as it was, or as the backup, whatever ends it. No password is an argument of
a program, where others could read it.

Redis is in no backup. A restored database is another ledger for it (`ledger_identity`), so that gateways begin a new
epoch, in which everything is loaded from the ledger again.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli import USAGE, CommandFailed, Output, Shown, add_command
from gateway.commands.postgres_programs import pour, run
from gateway.commands.store_options import refuse_api_url

if TYPE_CHECKING:
    from billing.database.connection import Database
    from gateway.commands.stores import Stores

# A backup holds addresses of people, and keys that sign tokens.
FILE_MODE: Final = 0o600
_LIVING: Final = "SELECT count(*) FROM gateways WHERE ended_at IS NULL AND lease_until > now()"
_TABLES: Final = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"

Backup = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.", show_default=False)]


def add_backup(app: typer.Typer) -> None:
    """Add both."""
    add_command(app, "backup", backup)
    add_command(app, "restore", restore)


async def backup(
    output: Output,
    file: Backup,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the whole database to a file, while gateways go on.

    One snapshot, in the custom format of pg_dump; `metergate restore` or pg_restore reads it.
    """
    refuse_api_url(output)
    if file.exists() and not force:
        raise CommandFailed(f"{file} is there already: name another file, or give --force.", USAGE)
    async with _opened(output) as (stores, database):
        if not await database.value("SELECT to_regclass('migrations') IS NOT NULL"):
            raise CommandFailed("The database has nothing of Metergate's: there is nothing to back up.")
        beside = file.with_name(f".{file.name}.new")
        try:
            beside.unlink(missing_ok=True)  # in /tmp anybody may have put a link there, or a file of theirs
            os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
            options = "--format=custom", "--no-owner", "--no-privileges", f"--file={beside}"
            with output.step("Backed up the database"):
                await run("pg_dump", (*options, "--verbose"), stores.database_url, output)
            beside.replace(file)
        except OSError as error:
            raise CommandFailed(f"Cannot write {file}: {error.strerror}.") from error
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
    size = file.stat().st_size
    output.show(Shown({"file": str(file), "bytes": size}, (f"{file}: {size} bytes.",)))


async def restore(
    output: Output,
    file: Backup,
    force: Annotated[bool, typer.Option("--force", help="Replace what the database has. It is lost.")] = False,
) -> None:
    """Make the database what a backup has. It is brought to this version.

    No gateway may run on it. Whole, or not at all.
    """
    refuse_api_url(output)
    from billing.database.migrate import migrate
    from billing.ledger.leases import end_all_leases

    if not file.is_file():
        raise CommandFailed(f"There is no file {file}.", USAGE)
    async with _opened(output) as (stores, database):
        applied = await _migrations_in(file, output)
        replaces = await _refuse_loss(database, force)
        with output.step("Restored the database"):
            await pour(file, stores.database_url, output, anew=replaces)
        with output.step("Brought the schema to this version"):
            migrated = await migrate(stores.database_url)
        await end_all_leases(database)
        accounts = await database.value("SELECT count(*) FROM accounts")
    data = {"file": str(file), "accounts": accounts, "migrations": applied, "applied": migrated}
    told = "Gateways that start now begin a new epoch, and load Redis from the ledger. Proof: metergate ledger verify."
    output.show(Shown(data, (f"{file} is restored: {accounts} accounts.", told)))


@asynccontextmanager
async def _opened(output: Output) -> AsyncIterator[tuple["Stores", "Database"]]:
    """Give where the database is, and a connection; what fails within is explained."""
    from billing.database.connection import Database
    from gateway.commands.stores import explained_failures, named_store, open_stores
    from gateway.config.environment import command_environment

    with explained_failures():
        async with open_stores(command_environment(os.environ), output, redis=False) as stores:
            database = Database(stores.database_url, size=1)
            try:
                with named_store(stores.database_url):
                    await database.value("SELECT 1")
                yield stores, database
            finally:
                await database.close()


async def _refuse_loss(database: "Database", force: bool) -> bool:
    """Return whether the database has something that is to be replaced. Raises `CommandFailed` where gateways live on
    it, or it has and there is no `force`."""
    if not await database.value(_TABLES):
        return False
    known = await database.value("SELECT to_regclass('gateways') IS NOT NULL")
    living = await database.value(_LIVING) if known else 0
    if living:
        raise CommandFailed(
            f"Gateways run on this database ({living}): stop them first, and wait until their leases end."
        )
    if not force:
        raise CommandFailed("The database is not empty: --force replaces all that it has.")
    return True


async def _migrations_in(file: Path, output: Output) -> int:
    """Return the number of a backup's last migration. Raises `CommandFailed` for a file that is no backup, or one of a
    newer version."""
    from billing.database.migrate import migrations

    listing = bytearray()
    options = "--data-only", "--table=migrations", "--file=-", "--", str(file)
    await run("pg_restore", options, None, output, listing.extend)
    lines = listing.decode(errors="replace").partition("COPY public.migrations ")[2].split("\n")[1:]
    numbers = [int(line.partition("\t")[0]) for line in lines[: lines.index("\\.")]] if "\\." in lines else []
    if not numbers:
        raise CommandFailed(f"{file} is no backup of Metergate's database.")
    newest = migrations()[-1].number
    if max(numbers) > newest:
        raise CommandFailed(f"{file} is of a newer version (migration {max(numbers)}): install that version.")
    return max(numbers)
