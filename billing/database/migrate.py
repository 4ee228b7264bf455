"""Migrations: numbered, append-only SQL files, applied in order under an advisory lock, each in its own transaction.

A migration rolls: the release before the one that brings it runs on, and may be started, on a database that has it.
One that does not says so, in a line of its own: `-- does not roll: WHY`. The database keeps which do, for releases that
have never seen them.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from billing.database.connection import Database, DatabaseError, Row

# The advisory lock that migrations hold: "metergat" as 64 bits.
LOCK_KEY: Final = 0x6D65746572676174
MONTHS_AHEAD: Final = 3
MIGRATION_TIMEOUT_S: Final = 3600.0
_DONE: Final = "SELECT number, name, digest, rolls FROM migrations ORDER BY number"
_DOES_NOT_ROLL: Final = re.compile(r"^-- does not roll:", re.MULTILINE)


class MigrationError(DatabaseError):
    """The database was made by other migrations than ours. The message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `0001_schema.sql` is number 1, name `schema`."""

    number: int
    name: str
    sql: str

    @property
    def full_name(self) -> str:
        """Return what its file is called."""
        return f"{self.number:04d}_{self.name}"

    @property
    def rolls(self) -> bool:
        """Return whether the release before runs on a database that has it."""
        return not _DOES_NOT_ROLL.search(self.sql)

    @property
    def digest(self) -> str:
        """Return what its text is recognised by."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return every migration that ships with this version, by number."""
    found = []
    for entry in files("billing.database").joinpath("migrations").iterdir():
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, entry.read_text()))
    return sorted(found, key=lambda migration: migration.number)


async def migrate(database_url: str) -> list[str]:
    """Bring a database to the newest schema and return the names of what was applied.

    Safe to run from several processes at once. What was applied before a failure stays, and the next run goes on after
    it. Raises `MigrationError` when an applied file has changed since or the database is newer than this version,
    `DatabaseError` when Postgres refuses or is away.
    """
    database = Database(database_url, size=1, timeout_s=MIGRATION_TIMEOUT_S)
    applied: list[str] = []
    try:
        while names := await _apply_next(database):
            applied += names
        return applied
    finally:
        await database.close()


async def _apply_next(database: Database) -> list[str]:
    """Apply the next migration in a transaction of its own, so that gateways wait for the locks of one and not of all,
    and return its name; of a new database all of them at once. The advisory lock is the transaction's: behind PgBouncer
    in transaction mode a session has none. Whoever takes it next looks anew at what is left."""
    async with database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY, name text NOT NULL, "
            "digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), rolls boolean NOT NULL)"
        )
        known = migrations()
        done = _check(await connection.fetch(_DONE), known)
        left = [each for each in known if each.number not in done]
        following = left[:1] if done else left
        for migration in following:
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO migrations (number, name, digest, rolls) VALUES ($1, $2, $3, $4)",
                migration.number,
                migration.name,
                migration.digest,
                migration.rolls,
            )
        if not following:
            await connection.execute("SELECT create_usage_months(current_date, $1)", MONTHS_AHEAD)
    return [migration.full_name for migration in following]


def _check(rows: Sequence[Row], known: list[Migration]) -> set[int]:
    """Return the numbers of migrations that a database has. Raises `MigrationError` where this version can't run on
    it."""
    ours = {migration.number: migration for migration in known}
    for row in rows:
        number = row["number"]
        if number not in ours:
            if not row["rolls"]:
                raise MigrationError(
                    f"The database has migration {number} of a newer version, beside which this version can't run: "
                    "install that version, or restore the backup that was made before."
                )
        elif ours[number].digest != row["digest"]:
            raise MigrationError(f"Migration {number} has changed since it was applied: restore the released file.")
    return {row["number"] for row in rows}


async def pending(database: Database) -> list[Migration]:
    """Return migrations that this version has and the database has not. Raises `DatabaseError`, of which
    `MigrationError` says that this version can't run on it."""
    exists = await database.value("SELECT to_regclass('migrations') IS NOT NULL")
    known = migrations()
    done = _check(await database.rows(_DONE), known) if exists else set()
    return [migration for migration in known if migration.number not in done]


async def require_none_pending(database: Database) -> None:
    """Raises `MigrationError` where the database lacks a migration, or has one beside which this version can't run."""
    if missing := await pending(database):
        names = ", ".join(each.full_name for each in missing)
        raise MigrationError(f"The database lacks migrations ({names}): run `metergate migrate` first.")
