"""`metergate backup` and `metergate restore`: the whole database in one file, by Postgres's own tools.

A backup is worth what was restored from it: `--verify` and `--rehearse` do that in a scratch database, and have its
ledger proved.

The tools are those of the wheel of the embedded server, which also work with older servers; where the wheel has none
for this machine, those on PATH. A backup is one snapshot in pg_dump's custom format, taken while gateways go on. A
restore is one transaction: the database is as it was, or as the backup, whatever ends it. No password is an argument of
a program, where others could read it.

Redis is in no backup. A restored database is another ledger for it (`ledger_identity`), so that gateways begin a new
epoch, in which everything is loaded from the ledger again.
"""

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli import USAGE, CommandFailed, Output, Shown, add_command
from gateway.commands.backup_places import UNFINISHED, Bucket, name_at, prune_folder, split
from gateway.commands.postgres_programs import pour, run
from gateway.commands.store_options import refuse_api_url
from gateway.object_stores import in_bucket

if TYPE_CHECKING:
    from billing.database.connection import Database
    from gateway.commands.stores import Stores

# A backup holds addresses of people, and keys that sign tokens.
FILE_MODE: Final = 0o600
_LIVING: Final = "SELECT count(*) FROM gateways WHERE ended_at IS NULL AND lease_until > now()"
_TABLES: Final = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"

Place = Annotated[
    str, typer.Argument(metavar="PLACE", help="A file, a folder, or s3://BUCKET/PREFIX.", show_default=False)
]
Backup = Annotated[str, typer.Argument(metavar="FILE", help="The backup, or s3://BUCKET/NAME.", show_default=False)]


@dataclass(frozen=True, slots=True)
class Proof:
    """What a backup had once it was restored into a scratch database, and how long that and the ledger's proof took."""

    ok: bool
    accounts: int
    events: int
    restored_s: float
    verified_s: float


def add_backup(app: typer.Typer) -> None:
    """Add both."""
    add_command(app, "backup", backup)
    add_command(app, "restore", restore)


async def backup(
    output: Output,
    place: Place,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, max=10_000, help="In a folder or bucket: remove all but so many of the newest."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Restore it into a scratch database below TMPDIR first, and verify that ledger."),
    ] = False,
) -> None:
    """Write the whole database to a file, while gateways go on.

    One snapshot, in the custom format of pg_dump; `metergate restore` or pg_restore reads it. In a folder (there
    already, or ending in /: made where it is missing) and in a bucket it is called by its time.
    """
    refuse_api_url(output)
    name = name_at(datetime.now(UTC))
    bucket, file = (Bucket.of(place), Path(name)) if in_bucket(place) else (None, Path(place))
    in_folder = bucket is None and (place.endswith("/") or file.is_dir())
    if keep is not None and bucket is None and not in_folder:
        raise CommandFailed("--keep needs a folder or a bucket.", USAGE)
    file = file / name if in_folder else file
    if bucket is None and file.exists() and not force:
        raise CommandFailed(f"{file} is there already: name another file, or give --force.", USAGE)
    async with _opened(output) as (stores, database):
        if not await database.value("SELECT to_regclass('migrations') IS NOT NULL"):
            raise CommandFailed("The database has nothing of Metergate's: there is nothing to back up.")
        try:
            if in_folder:
                file.parent.mkdir(mode=0o700, exist_ok=True)
            with _beside(file, apart=bucket is not None) as made:
                options = "--format=custom", "--no-owner", "--no-privileges", f"--file={made}"
                with output.step("Backed up the database"):
                    await run("pg_dump", (*options, "--verbose"), stores.database_url, output)
                proof = await _proved(made, output) if verify else None
                size = made.stat().st_size
                if bucket is not None:
                    with output.step("Wrote it to the bucket"):
                        await bucket.put(name, made)
                else:
                    made.replace(file)
            gone: list[str] = []
            if keep is not None:
                gone = await bucket.prune(keep) if bucket is not None else prune_folder(file.parent, keep)
        except OSError as error:
            raise CommandFailed(f"Cannot write {file}: {error.strerror}.") from error
    where = str(file) if bucket is None else f"{bucket.place}/{name}"
    data = {"file": where, "bytes": size, "removed": gone, "proof": proof}
    told = [f"{where}: {size} bytes."]
    told += [_told(proof)] if proof is not None else []
    told += [f"{len(gone)} older ones are removed."] if gone else []
    output.show(Shown(data, tuple(told)))


async def restore(
    output: Output,
    file: Backup,
    force: Annotated[bool, typer.Option("--force", help="Replace what the database has. It is lost.")] = False,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Change nothing: restore into a scratch database below TMPDIR, and verify it."),
    ] = False,
) -> None:
    """Make the database what a backup has. It is brought to this version.

    No gateway may run on it. Whole, or not at all.
    """
    refuse_api_url(output)
    from gateway.commands.stores import explained_failures

    with TemporaryDirectory(prefix="metergate-backup-") as folder:
        path = await _fetched(file, Path(folder), output)
        if rehearse:
            with explained_failures():
                proof = await _proved(path, output)
            output.show(Shown({"file": file, "proof": proof}, (_told(proof),)))
        else:
            await _restore(path, file, output, force=force)


async def _fetched(file: str, folder: Path, output: Output) -> Path:
    """Return where a backup is, which is read from its bucket first. Raises `CommandFailed`."""
    if not in_bucket(file):
        return _there(Path(file))
    prefix, name = split(file)
    bucket, path = Bucket.of(prefix), folder / "backup"
    with output.step("Read it from the bucket"):
        await bucket.get(name, path)
    return path


def _there(file: Path) -> Path:
    if not file.is_file():
        raise CommandFailed(f"There is no file {file}.", USAGE)
    return file


async def _restore(path: Path, shown_as: str, output: Output, *, force: bool) -> None:
    from billing.database.migrate import migrate
    from billing.ledger.leases import end_all_leases

    async with _opened(output) as (stores, database):
        applied = await _migrations_in(path, output)
        replaces = await _refuse_loss(database, force)
        with output.step("Restored the database"):
            await pour(path, stores.database_url, output, anew=replaces)
        with output.step("Brought the schema to this version"):
            migrated = await migrate(stores.database_url)
        with output.step("Gathered statistics"):
            await _analyze(stores.database_url)
        await end_all_leases(database)
        accounts = await database.value("SELECT count(*) FROM accounts")
    data = {"file": shown_as, "accounts": accounts, "migrations": applied, "applied": migrated}
    told = "Gateways that start now begin a new epoch, and load Redis from the ledger. Proof: metergate ledger verify."
    output.show(Shown(data, (f"{shown_as} is restored: {accounts} accounts.", told)))


async def _proved(file: Path, output: Output) -> Proof:
    """Restore a backup into a scratch database and verify that ledger. Raises `CommandFailed` where it is not whole."""
    from billing.database.connection import Database
    from billing.database.migrate import migrate
    from billing.ledger.verify import STATEMENT_TIMEOUT_S, verify
    from gateway.commands.scratch import scratch_database

    await _migrations_in(file, output)
    async with scratch_database(output) as url:
        began_s = time.monotonic()
        with output.step("Restored it into a scratch database"):
            await pour(file, url, output, anew=False)
            await migrate(url)
            await _analyze(url)
        restored_s = time.monotonic()
        database = Database(url, size=1, timeout_s=STATEMENT_TIMEOUT_S)
        try:
            with output.step("Verified that ledger"):
                verified = await verify(database)
            accounts = int(await database.value("SELECT count(*) FROM accounts"))
            events = int(await database.value("SELECT count(*) FROM usage_events"))
        finally:
            await database.close()
    if not verified.ok:
        wrong = ", ".join(check.name for check in verified.checks if check.differences)
        raise CommandFailed(f"The backup was restored, and its ledger does not verify: {wrong}. It is not kept.")
    ended_s = time.monotonic()
    return Proof(verified.ok, accounts, events, round(restored_s - began_s, 1), round(ended_s - restored_s, 1))


async def _analyze(url: str) -> None:
    """Have Postgres look at what was restored: without statistics it plans large queries for hours."""
    from billing.database.connection import Database
    from billing.database.migrate import MIGRATION_TIMEOUT_S

    database = Database(url, size=1, timeout_s=MIGRATION_TIMEOUT_S)
    try:
        await database.execute("ANALYZE")
    finally:
        await database.close()


def _told(proof: Proof) -> str:
    return (
        f"Restored into a scratch database in {proof.restored_s:g} s, its ledger verified in {proof.verified_s:g} s: "
        f"{proof.accounts} accounts, {proof.events} usage events."
    )


@contextmanager
def _beside(file: Path, *, apart: bool) -> Iterator[Path]:
    """Give a file of the owner's alone, beside `file` or in a folder apart, which is removed if it is still there.
    Raises `OSError`."""
    with TemporaryDirectory(prefix="metergate-backup-") if apart else nullcontext(file.parent) as folder:
        made = Path(folder) / UNFINISHED.format(name=file.name)
        try:
            made.unlink(missing_ok=True)  # in /tmp anybody may have put a link there, or a file of theirs
            os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
            yield made
        finally:
            with suppress(OSError):
                made.unlink(missing_ok=True)


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
