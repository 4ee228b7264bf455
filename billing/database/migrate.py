"""Migrations: numbered, append-only SQL files, applied in order under an advisory lock, each in its own transaction."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from billing.database.connection import Database, DatabaseError

# The advisory lock that migrations hold: "metergat" as 64 bits.
LOCK_KEY: Final = 0x6D65746572676174
MONTHS_AHEAD: Final = 3
MIGRATION_TIMEOUT_S: Final = 3600.0


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
            "digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        rows = await connection.fetch("SELECT number, name, digest FROM migrations ORDER BY number")
        done = {row["number"]: row["digest"] for row in rows}
        known = migrations()
        _check(done, known)
        left = [each for each in known if each.number not in done]
        following = left[:1] if done else left
        for migration in following:
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO migrations (number, name, digest) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.digest,
            )
        if not following:
            await connection.execute("SELECT create_usage_months(current_date, $1)", MONTHS_AHEAD)
    return [migration.full_name for migration in following]


def _check(done: dict[int, str], known: list[Migration]) -> None:
    ours = {migration.number: migration for migration in known}
    for number, digest in done.items():
        if number not in ours:
            raise MigrationError(f"The database has migration {number}, newer than this version: install that version.")
        if ours[number].digest != digest:
            raise MigrationError(f"Migration {number} has changed since it was applied: restore the released file.")


async def pending(database: Database) -> list[str]:
    """Return names of migrations that this version has and the database has not. Raises `DatabaseError`."""
    exists = await database.value("SELECT to_regclass('migrations') IS NOT NULL")
    done = {row["number"] for row in await database.rows("SELECT number FROM migrations")} if exists else set()
    return [migration.full_name for migration in migrations() if migration.number not in done]
