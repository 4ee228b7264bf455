"""Migrations: each is a transaction of its own, and applied once by however many ask for it. Those that follow the
schema are the tests' own."""

import asyncio

import pytest

from billing.database import migrate as module
from billing.database.connection import Database, DatabaseHindered
from billing.database.migrate import Migration, MigrationError, migrate, migrations, pending, require_none_pending

FIRST, SECOND = Migration(9001, "first", "CREATE TABLE first ()"), Migration(9002, "second", "CREATE TABLE second ()")
BROKEN = Migration(9002, "second", "CREATE TABLE second (); SELECT nothing")
TABLES = "SELECT count(*) FROM pg_class WHERE relname IN ('accounts', 'first', 'second')"


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> "Shipped":
    return Shipped(monkeypatch)


class Shipped:
    """What a version ships with: the schema, and migrations after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._schema = migrations()

    def also(self, *later: Migration) -> None:
        self._monkeypatch.setattr(module, "migrations", lambda: [*self._schema, *later])


def test_numbers_rise_and_begin_with_the_schema():
    numbers = [migration.number for migration in migrations()]
    assert numbers == sorted(set(numbers))
    assert migrations()[0].full_name == "0001_schema"


async def test_what_was_applied_before_a_failure_stays(billing, database_url, shipped):
    shipped.also(FIRST, BROKEN)
    with pytest.raises(DatabaseHindered, match="nothing"):
        await migrate(database_url)
    assert [each.full_name for each in await pending(billing.database)] == ["9002_second"]
    assert await billing.database.value(TABLES) == 2
    shipped.also(FIRST, SECOND, Migration(9003, "third", "SELECT 1"))
    applied = await asyncio.gather(*(migrate(database_url) for _ in range(3)))
    assert sorted(name for names in applied for name in names) == ["9002_second", "9003_third"]
    assert await pending(billing.database) == []


async def test_a_new_database_gets_all_of_them_or_none(empty_database_url, shipped):
    database = Database(empty_database_url, size=1)
    try:
        shipped.also(FIRST, BROKEN)
        with pytest.raises(DatabaseHindered, match="nothing"):
            await migrate(empty_database_url)
        assert await database.value(TABLES) == 0
        shipped.also(FIRST, SECOND)
        assert await migrate(empty_database_url) == ["0001_schema", "9001_first", "9002_second"]
        assert await database.value(TABLES) == 3
    finally:
        await database.close()


async def test_what_other_migrations_have_made_is_refused(billing, database_url, shipped):
    shipped.also(FIRST, SECOND)
    assert await migrate(database_url) == ["9001_first", "9002_second"]
    shipped.also(FIRST, Migration(9002, "second", "CREATE TABLE another ()"))
    with pytest.raises(MigrationError, match="Migration 9002 has changed since it was applied"):
        await migrate(database_url)
    assert await billing.database.value("SELECT to_regclass('another') IS NULL")


async def test_a_release_runs_beside_what_the_next_one_has_made_unless_that_does_not_roll(
    billing, database_url, shipped
):
    shipped.also(FIRST, SECOND)
    assert SECOND.rolls
    await migrate(database_url)
    shipped.also(FIRST)
    assert await migrate(database_url) == []
    await require_none_pending(billing.database)
    apart = Migration(9003, "apart", "-- does not roll: the old one reads what is gone\nDROP TABLE second")
    assert not apart.rolls
    shipped.also(FIRST, SECOND, apart)
    with pytest.raises(MigrationError, match="lacks migrations \\(9003_apart\\)"):
        await require_none_pending(billing.database)
    await migrate(database_url)
    shipped.also(FIRST)
    for refused in (migrate(database_url), require_none_pending(billing.database)):
        with pytest.raises(MigrationError, match="migration 9003 of a newer version, beside which"):
            await refused
