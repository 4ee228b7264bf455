"""Rows of objects and of finished jobs are deleted by their age, and no others."""

from collections.abc import AsyncIterator

import pytest

from billing.database.connection import Database
from billing.owned import Retention
from billing.settings import RetentionSettings

OBJECT = """INSERT INTO provider_objects (object_id, provider, account_id, kind, model, created_at)
SELECT $1 || n, 'p', 'a', 'response', 'm', now() - $2 * interval '1 day' FROM generate_series(1, $3) AS n"""
JOB = """INSERT INTO background_jobs (object_id, provider, kind, model, request_id, later_id, gateway_id, debit,
    expires_at, lease_owner, lease_until, done_at)
VALUES ($1, 'p', 'response', 'm', $1, $1 || 'later', 'g', '', now(), 'g', now(), now() - $2 * interval '1 day')"""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    yield made
    await made.close()


async def test_what_is_old_goes_in_batches(database):
    await database.execute(OBJECT, "old", 31, 5)
    await database.execute(OBJECT, "new", 29, 2)
    for name, days in (("over", 8), ("young", 6), ("runs", None)):
        await database.execute(JOB, name, days)
    retention = Retention(database, RetentionSettings(object_retention_days=30, job_retention_days=7), "one")
    assert await retention.forget(batch_rows=2) == 6
    assert await database.value("SELECT count(*) FROM provider_objects WHERE object_id LIKE 'new%'") == 2
    assert await database.value("SELECT count(*) FROM provider_objects") == 2
    left = await database.rows("SELECT object_id FROM background_jobs ORDER BY object_id")
    assert [row["object_id"] for row in left] == ["runs", "young"]
    assert await retention.forget() == 0
