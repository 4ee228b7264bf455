"""Migration 2 on a ledger that has grown with migration 1: nothing that was rolled up or granted is lost or doubled."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest

from billing.accounts.grants import IdempotencyConflict
from billing.database.connection import Database, DatabaseHindered, UniqueViolation
from billing.database.migrate import migrate, pending
from billing.ledger.catalogue import sync_prices
from billing.ledger.reports import UsageTotals, roll
from billing.ledger.verify import verify
from billing.money import NANO_PER_USD
from billing.usage import Usage
from tests.billing.support import PRICES, Billing

USAGE = Usage(input_tokens=1000, output_tokens=100)
COST_NANO = 210_000
BACK = """
ALTER VIEW usage_rollups RENAME TO rollups;
CREATE TABLE usage_rollups (account_id text, granularity smallint, bucket timestamptz, key_id text, model text,
    feature text, requests bigint, input_tokens bigint, cached_input_tokens bigint, cache_write_tokens bigint,
    output_tokens bigint, reasoning_tokens bigint, cost_nano numeric, charged_nano numeric,
    PRIMARY KEY (account_id, granularity, bucket, key_id, model, feature));
INSERT INTO usage_rollups SELECT account_id, granularity, bucket, key_id, model, feature, sum(requests),
    sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
    sum(cost_nano), sum(charged_nano) FROM rollups GROUP BY 1, 2, 3, 4, 5, 6;
DROP VIEW rollups;
DROP VIEW usage_by_one;
DROP TABLE usage_sums, usage_tags, usage_dimensions, usage_by_account, usage_by_model, usage_by_names, usage_folds;
DROP FUNCTION refuse_half_sums;
DROP FUNCTION usage_pair;
DROP INDEX transfers_returned;
DROP INDEX transfers_debit_other;
ALTER TABLE accounts DROP COLUMN tz;
DROP TABLE usage_fresh;
DROP INDEX transfers_idempotency;
ALTER TABLE transfers ADD UNIQUE (idempotency_scope, idempotency_key);
ALTER TABLE accounts RESET (fillfactor);
DELETE FROM migrations WHERE number IN (2, 16, 55, 56, 57, 59, 67);
"""
"""The schema of migration 1, with what is in its tables."""
LATER = [
    "0002_fresh_usage",
    "0016_usage_sums",
    "0055_usage_of_all",
    "0056_returned",
    "0057_usage_by_one",
    "0059_usage_by_names",
    "0067_usage_pairs",
]

SHAPE = """
SELECT 'column', table_name::text, column_name::text, data_type::text || is_nullable::text
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', tablename::text, indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
UNION ALL SELECT 'options', relname::text, '', reloptions::text FROM pg_class WHERE reloptions IS NOT NULL
ORDER BY 1, 2, 3
"""


@pytest.fixture
async def grown(billing: Billing) -> tuple[str, str]:
    """An account and its key in a ledger as migration 1 left it: granted to, with a debit that is rolled up."""
    await sync_prices(billing.database, PRICES)
    account = await billing.accounts.create("Acme")
    key, _ = await billing.keys.create(account.id, "laptop")
    await billing.grants.grant(account.id, NANO_PER_USD, "welcome")
    await billing.debit(account.id, key.id, USAGE, admitted_at=datetime.now(UTC))
    assert await roll(billing.database, most_fresh=0) == 1
    await billing.database.execute(BACK)
    assert await pending(billing.database) == LATER
    return account.id, key.id


async def test_a_ledger_that_has_grown(billing: Billing, grown: tuple[str, str], database_url: str) -> None:
    account_id, key_id = grown
    assert await migrate(database_url) == LATER
    assert await billing.reports.usage_totals(account_id) == UsageTotals(1, 1000, 100, COST_NANO)
    await billing.debit(account_id, key_id, USAGE, admitted_at=datetime.now(UTC))
    for moved in (0, 1):
        assert await roll(billing.database, moved, most_fresh=0) == moved
        assert await billing.reports.usage_totals(account_id, key_id=key_id) == UsageTotals(2, 2000, 200, 2 * COST_NANO)
        assert (await verify(billing.database)).ok


async def test_a_grant_is_still_made_once(billing: Billing, grown: tuple[str, str], database_url: str) -> None:
    account_id, _ = grown
    await migrate(database_url)
    with suppress(DatabaseHindered):  # prepared before the columns were others: the driver does so anew for a retry
        await billing.grants.grant(account_id, NANO_PER_USD, "welcome")
    assert (await billing.grants.grant(account_id, NANO_PER_USD, "welcome")).replayed
    with pytest.raises(IdempotencyConflict):
        await billing.grants.grant(account_id, 2 * NANO_PER_USD, "welcome")
    with pytest.raises(UniqueViolation):
        await billing.database.execute(
            "INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind, idempotency_scope, "
            "idempotency_key) SELECT 'again', debit_account, credit_account, amount_nano, kind, idempotency_scope, "
            "idempotency_key FROM transfers WHERE kind = 'grant'"
        )


async def test_an_upgraded_database_is_as_a_new_one(billing: Billing, database_url: str) -> None:
    async def shape(database: Database) -> list[tuple[object, ...]]:
        return [tuple(row) for row in await database.rows(SHAPE)]

    new = await shape(billing.database)
    await billing.database.execute(BACK)
    assert await shape(billing.database) != new
    await migrate(database_url)
    assert await shape(billing.database) == new
