"""Migrations: numbered, append-only SQL files, applied in order under an advisory lock, each in one transaction."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from billing.database.connection import Database, DatabaseError

LOCK_KEY: Final = 0x6D65746572676174
"""The advisory lock that migrations hold: "metergat" as 64 bits."""
MONTHS_AHEAD: Final = 3
MIGRATION_TIMEOUT_S: Final = 3600.0


class MigrationError(DatabaseError):
    """The database was made by other migrations than ours. The message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `0001_core.sql` is number 1, name `core`."""

    number: int
    name: str
    sql: str

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


async def migrate(database_url: str, *, up_to: int | None = None) -> list[str]:
    """Bring a database to the newest schema (or to number `up_to`) and answer the names of what was applied.

    Safe to run from several processes at once. Raises `MigrationError` when an applied file has changed since or the
    database is newer than this version, `DatabaseError` when Postgres refuses or is away.
    """
    database = Database(database_url, size=1, timeout_s=MIGRATION_TIMEOUT_S)
    try:
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
            applied = []
            for migration in known:
                if migration.number in done or (up_to is not None and migration.number > up_to):
                    continue
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO migrations (number, name, digest) VALUES ($1, $2, $3)",
                    migration.number,
                    migration.name,
                    migration.digest,
                )
                applied.append(f"{migration.number:04d}_{migration.name}")
            await connection.execute("SELECT create_usage_months(current_date, $1)", MONTHS_AHEAD)
            return applied
    finally:
        await database.close()


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
    return [f"{migration.number:04d}_{migration.name}" for migration in migrations() if migration.number not in done]
