-- Debits reach the rollups by way of usage_fresh: to write one is a row appended here, in the debit's own transaction,
-- and no longer four rollups raised. Rows are moved in the background, so that a rollup is raised once for many of them.
-- What was used is always the rollups and the fresh rows together, read in one statement.

CREATE TABLE usage_fresh (
    admitted_at timestamptz NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano bigint NOT NULL,
    charged_nano bigint NOT NULL,
    account_id text NOT NULL,
    key_id text NOT NULL,
    model text NOT NULL,
    feature text NOT NULL,
    -- So that every sum fits, and no row can ever stop those behind it.
    CHECK (greatest(input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens) < 1099511627776)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000
);
CREATE INDEX usage_fresh_account ON usage_fresh (account_id);
COMMENT ON TABLE usage_fresh IS
    'Requests that count and that the rollups do not have yet: one row each, moved within seconds.';

-- A balance changes with every batch: with room in its page the new row lies beside the old one, and no index changes.
-- What is there already gets that room as it is written again.
ALTER TABLE accounts SET (fillfactor = 60);
ALTER TABLE usage_rollups SET (fillfactor = 80);

-- Usage has no idempotency key, the request id is its own: an index that leaves it out is not written for every debit.
ALTER TABLE transfers DROP CONSTRAINT transfers_idempotency_scope_idempotency_key_key;
CREATE UNIQUE INDEX transfers_idempotency ON transfers (idempotency_scope, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
