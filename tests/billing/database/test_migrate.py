"""Migrations: each is a transaction of its own, and applied once by however many ask for it."""

import asyncio

import pytest

from billing.database import migrate as module
from billing.database.connection import DatabaseHindered
from billing.database.migrate import Migration, migrate, migrations, pending
from tests.billing.support import Billing

FIRST, SECOND = Migration(9001, "first", "CREATE TABLE first ()"), Migration(9002, "second", "CREATE TABLE second ()")


async def test_what_was_applied_before_a_failure_stays(
    billing: Billing, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrations()
    broken = Migration(9002, "second", "CREATE TABLE second (); SELECT nothing")
    monkeypatch.setattr(module, "migrations", lambda: [*known, FIRST, broken])
    with pytest.raises(DatabaseHindered, match="nothing"):
        await migrate(database_url)
    assert await pending(billing.database) == ["9002_second"]
    monkeypatch.setattr(module, "migrations", lambda: [*known, FIRST, SECOND, Migration(9003, "third", "SELECT 1")])
    assert await migrate(database_url, up_to=9001) == []
    applied = await asyncio.gather(*(migrate(database_url) for _ in range(3)))
    assert sorted(name for names in applied for name in names) == ["9002_second", "9003_third"]
    assert await pending(billing.database) == []
