"""Databases that are used again: nothing of one test reaches the next."""

import asyncio
from typing import Any

import asyncpg
import pytest

pytestmark = pytest.mark.slow

SPOILT = {
    "rows": ("INSERT INTO accounts (id, name, plan) VALUES ('a', 'A', 'free')", True),
    "rows that triggers keep": (
        "INSERT INTO accounts (id, name, plan) VALUES ('a', 'A', 'free');"
        "INSERT INTO audit_log (actor, action, subject) VALUES ('x', 'y', 'z')",
        True,
    ),
    "rows of the template, changed": (
        "SET session_replication_role = replica; UPDATE installation SET beat = 7; UPDATE prices SET model = id",
        True,
    ),
    "rows of the template, deleted": ("DELETE FROM migrations", True),
    "a trigger": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER t BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION f()",
        False,
    ),
    "a trigger that is off": ("ALTER TABLE transfers DISABLE TRIGGER ALL", False),
    "a table": ("CREATE TABLE more (x int)", False),
    "a column": ("ALTER TABLE accounts ADD COLUMN more int", False),
    "a setting": (
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = 1', current_database()); END $$",
        False,
    ),
    "a right": ("GRANT SELECT ON accounts TO PUBLIC", False),
}


async def content(url: str) -> dict[str, Any]:
    connection = await asyncpg.connect(url)
    try:
        tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        names = sorted(row[0] for row in await connection.fetch(tables))
        found = {name: sorted(map(repr, await connection.fetch(f"SELECT * FROM {name}"))) for name in names}  # noqa: S608
        return {**found, "triggers": await connection.fetch("SELECT tgname, tgenabled FROM pg_trigger ORDER BY oid")}
    finally:
        await connection.close()


@pytest.mark.parametrize(("spoils", "is_kept"), SPOILT.values(), ids=SPOILT)
def test_the_next_test_finds_it_as_new(server_thread, databases, priced_template_database, spoils, is_kept):
    name = databases.take(priced_template_database)
    as_new = asyncio.run(content(databases.url(name)))
    assert as_new["installation"]
    assert len(as_new["prices"]) > 100

    async def spoil():
        connection = await asyncpg.connect(databases.url(name))
        await connection.execute(spoils)
        return connection  # which nobody closes

    loop = asyncio.new_event_loop()
    left_open = loop.run_until_complete(spoil())
    after = server_thread.run(databases.renewed(name, priced_template_database))
    left_open.terminate()
    loop.close()
    assert (after == name) == is_kept
    assert asyncio.run(content(databases.url(after))) == as_new
    databases.leave(after, priced_template_database)


def test_numbers_begin_anew(databases, template_database):
    async def number(url):
        connection = await asyncpg.connect(url)
        insert = "INSERT INTO audit_log (actor, action, subject) VALUES ('x', 'y', 'z') RETURNING id"
        got = await connection.fetchval(insert)
        await connection.close()
        return int(got)

    for _ in range(8):
        name = databases.take(template_database)
        assert asyncio.run(number(databases.url(name))) == 1
        databases.leave(name, template_database)
