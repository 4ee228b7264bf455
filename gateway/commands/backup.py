"""`metergate backup` and `metergate restore`: the whole database in one file, by Postgres's own tools.

The tools are those of the wheel of the embedded server, which also work with older servers; where the wheel has none
for this machine, those on PATH. A backup is one snapshot in pg_dump's custom format, taken while gateways go on. A
restore is one transaction: the database is as it was, or as the backup, whatever ends it. No password is an argument of
a program, where others could read it.

Redis is in no backup. A restored database is another ledger for it (`ledger_identity`), so that gateways begin a new
epoch, in which everything is loaded from the ledger again.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli import USAGE, CommandFailed, Output, Shown, add_command
from gateway.commands.store_options import refuse_api_url

if TYPE_CHECKING:
    import asyncio
    from asyncio.subprocess import Process

    from billing.database.connection import Database
    from gateway.commands.stores import Stores

# A backup holds addresses of people, and keys that sign tokens.
FILE_MODE: Final = 0o600
PIECE_BYTES: Final = 1 << 16
# The first of a script, which have its settings; every backup is longer.
HEAD_BYTES: Final = 4096
# Lines of a program that failed which are shown.
LAST_WORDS: Final = 3
# From one line to the next that says how far it is.
PROGRESS_S: Final = 5.0
CONNECT_S: Final = "10"
_LIVING: Final = "SELECT count(*) FROM gateways WHERE ended_at IS NULL AND lease_until > now()"
_TABLES: Final = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
_ANEW: Final = b"DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n"
# Which scripts for Postgres 17 and later begin with, and older servers refuse.
_UNKNOWN_SETTING: Final = b"SET transaction_timeout = 0;\n"

Take = Callable[[bytes], object]
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
                await _run("pg_dump", (*options, "--verbose"), stores.database_url, output)
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
            await _pour(file, stores.database_url, output, anew=replaces)
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
    await _run("pg_restore", options, None, output, listing.extend)
    lines = listing.decode(errors="replace").partition("COPY public.migrations ")[2].split("\n")[1:]
    numbers = [int(line.partition("\t")[0]) for line in lines[: lines.index("\\.")]] if "\\." in lines else []
    if not numbers:
        raise CommandFailed(f"{file} is no backup of Metergate's database.")
    newest = migrations()[-1].number
    if max(numbers) > newest:
        raise CommandFailed(f"{file} is of a newer version (migration {max(numbers)}): install that version.")
    return max(numbers)


async def _pour(file: Path, url: str, output: Output, *, anew: bool) -> None:
    """Have one transaction do all that a backup says; it is committed only once the backup was read to its end."""
    options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", "--file=-")
    async with _started("psql", options, url, stdin=True) as psql:
        assert psql.stdin is not None  # noqa: S101  (it was asked for)
        into = psql.stdin
        words = _Words(output, psql.stderr)
        head: bytearray | None = bytearray()

        async def write(piece: bytes) -> None:
            nonlocal head
            if head is not None:
                head += piece
                if len(head) < HEAD_BYTES:
                    return
                piece, head = bytes(head).replace(_UNKNOWN_SETTING, b""), None
            into.write(piece)
            await into.drain()

        with suppress(BrokenPipeError, ConnectionResetError):  # its last words say why
            into.write(b"BEGIN;\n" + (_ANEW if anew else b""))
            reading = "--no-owner", "--no-privileges", "--verbose", "--file=-", "--", str(file)
            await _run("pg_restore", reading, None, output, write)
            words.at = "indexes and constraints"
            into.write(bytes(head or b"") + b"COMMIT;\n")
            await into.drain()
        into.close()
        await words.read
        if await psql.wait():
            raise CommandFailed(f"The backup can't be restored, and nothing has changed: {words.last}")


async def _run(name: str, options: tuple[str, ...], url: str | None, output: Output, take: Take | None = None) -> None:
    """Run a program to its end; `take` gets what it writes. Raises `CommandFailed` where it fails."""
    from inspect import isawaitable

    async with _started(name, options, url, stdout=take is not None) as process:
        words = _Words(output, process.stderr)
        if take is not None and process.stdout is not None:
            while piece := await process.stdout.read(PIECE_BYTES):
                if isawaitable(taken := take(piece)):
                    await taken
        await words.read
        if await process.wait():
            raise CommandFailed(f"{name} failed: {words.last}")


class _Words:
    """Reads a program's stderr: its last lines, and what it is at, which is said each `PROGRESS_S`. `read` ends with
    the program."""

    def __init__(self, output: Output, stderr: "asyncio.StreamReader | None") -> None:
        from asyncio import create_task

        self._output, self._tables, self.at, self._lines = output, 0, "", list[str]()
        self.read = create_task(self._read(stderr))

    @property
    def last(self) -> str:
        """Return what the program said of its failure."""
        return " ".join(self._lines[-LAST_WORDS:]) or "it gave no reason."

    async def _read(self, stderr: "asyncio.StreamReader | None") -> None:
        from asyncio import get_running_loop, timeout_at

        assert stderr is not None  # noqa: S101  (it was asked for)
        clock = get_running_loop().time
        line, due_s = b"...", clock() + PROGRESS_S
        while line:
            try:
                async with timeout_at(due_s):
                    line = await stderr.readline()
                self._take(line.decode(errors="replace").strip())
            except TimeoutError:
                due_s = clock() + PROGRESS_S
                if self.at:
                    self._output.note(f"  {self.at} ...")

    def _take(self, text: str) -> None:
        _, at, table = text.partition(' table "public.')
        if at and (" contents of" in text or "processing data" in text):
            self._tables += 1
            self.at = f"table {self._tables}: " + table.rstrip('"')
        elif text and "error:" in text.lower():
            self._lines.append(text)


@asynccontextmanager
async def _started(
    name: str, options: tuple[str, ...], url: str | None, *, stdin: bool = False, stdout: bool = False
) -> AsyncIterator["Process"]:
    """Give a running program, on the database at `url` where there is one; it is killed where it still runs then."""
    import asyncio
    from asyncio.subprocess import DEVNULL, PIPE

    from billing.database.urls import program_target

    target, secret = ((), {}) if url is None else program_target(url)
    process = await asyncio.create_subprocess_exec(
        str(_program(name)),
        *options,
        *target,
        stdin=PIPE if stdin else DEVNULL,
        stdout=PIPE if stdout else DEVNULL,
        stderr=PIPE,
        env={**os.environ, "LC_ALL": "C", "PGCONNECT_TIMEOUT": CONNECT_S, **secret},
        limit=1 << 20,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _program(name: str) -> Path:
    """Return where one of Postgres's programs is. Raises `CommandFailed`."""
    import shutil

    from gateway.embedded.folders import EmbeddedServersError
    from gateway.embedded.process import postgres_bin

    with suppress(EmbeddedServersError):
        own = postgres_bin(None) / name
        if own.is_file():
            return own
    found = shutil.which(name)
    if found is None:
        raise CommandFailed(f"There is no {name} on this machine: install the client programs of PostgreSQL.")
    return Path(found)
