"""The ledger's identity: it stays the same, and every copy has another one."""

import asyncio
import secrets

from billing.database.connection import Database

IDENTITY = "SELECT ledger_identity()"


async def test_a_copy_says_that_it_is_another_ledger(databases, database_url, template_database):
    database = Database(database_url, size=1)
    identity = await database.value(IDENTITY)
    cluster, timeline, *ids = identity.split(".")
    assert (cluster.isdigit(), timeline, len(ids)) == (True, "00000001", 2)
    assert await database.value(IDENTITY) == identity
    name = f"copy{secrets.token_hex(4)}"
    copy = Database(await asyncio.to_thread(databases.create, name, template_database), size=1)
    assert await copy.value(IDENTITY) != identity
    for each in (database, copy):
        await each.close()
    await asyncio.to_thread(databases.drop, name)


async def test_a_table_that_was_made_again_is_another_ledgers(database_url):
    """As a restore into the same database makes it."""
    database = Database(database_url, size=1)
    identity = await database.value(IDENTITY)
    await database.execute("ALTER TABLE partitions RENAME TO old_partitions")
    await database.execute("CREATE TABLE partitions AS TABLE old_partitions")
    assert await database.value(IDENTITY) != identity
    await database.close()


async def test_what_the_server_does_not_say_is_left_out(database_url):
    """A role that may read the tables and nothing of the server."""
    database, role = Database(database_url, size=1), f"reader{secrets.token_hex(4)}"
    whole = await database.value(IDENTITY)
    async with database.transaction() as connection:
        await connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system, pg_walfile_name(pg_lsn) FROM PUBLIC")
        await connection.execute(f"CREATE ROLE {role}")
        await connection.execute(f"SET LOCAL ROLE {role}")
        identity = await connection.fetchval(IDENTITY)
        await connection.execute("RESET ROLE")
        await connection.execute(f"DROP ROLE {role}")
        await connection.execute("GRANT EXECUTE ON FUNCTION pg_control_system, pg_walfile_name(pg_lsn) TO PUBLIC")
    assert identity == ".".join(["", "", *whole.split(".")[2:]])
    await database.close()


async def test_an_ordinary_role_reads_all_of_it(database_url):
    database, role = Database(database_url, size=1), f"reader{secrets.token_hex(4)}"
    whole = await database.value(IDENTITY)
    async with database.transaction() as connection:
        await connection.execute(f"CREATE ROLE {role}")
        await connection.execute(f"SET LOCAL ROLE {role}")
        assert await connection.fetchval(IDENTITY) == whole
        await connection.execute("RESET ROLE")
        await connection.execute(f"DROP ROLE {role}")
    await database.close()
