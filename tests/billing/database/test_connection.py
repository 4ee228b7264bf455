"""Connections and transactions: what they are pinned to, whatever the server's defaults are."""

import pytest

from billing.database.connection import Database

ISOLATION = "SHOW transaction_isolation"


@pytest.mark.parametrize("pooled", ["", "&statement_cache_size=0"])
async def test_isolation_is_ours_whatever_the_default_is(database_url, pooled):
    """Behind a pooler sessions are shared, and none is set up: what moves money and usage is a transaction."""
    mark = "&" if "?" in database_url else "?"
    database = Database(f"{database_url}{mark}default_transaction_isolation=serializable{pooled}", size=1)
    try:
        assert await database.value(ISOLATION) == ("serializable" if pooled else "read committed")
        async with database.transaction() as connection, connection.transaction():
            assert await connection.fetchval(ISOLATION) == "read committed"
        async with database.transaction(snapshot=True) as connection:
            assert await connection.fetchval(ISOLATION) == "repeatable read"
            assert await connection.fetchval("SHOW transaction_read_only") == "on"
    finally:
        await database.close()
