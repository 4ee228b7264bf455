-- Sums of busy accounts by a tag together with a dimension, beside those by one dimension or one tag alone: both are in one table now, in
-- the terms of usage_sums. They are made anew in the background, as 0057 says; until then reports are read of all combinations.
-- Whoever moves usage waits while this is made, and readers find either all old sums or none: usage_folds is locked first, as
-- they do. While one reads for long (`metergate ledger verify`), this gives up soon, so that reports don't wait for it.
SET LOCAL lock_timeout = '10s';
SELECT pg_advisory_xact_lock(x'6D65746572726F6C'::bigint);
TRUNCATE usage_folds;
DROP TABLE usage_by_one;
RESET lock_timeout;
CREATE TABLE usage_by_names (
    account_id text NOT NULL,
    tag bigint NOT NULL,
    dimension smallint NOT NULL CHECK (dimension BETWEEN 0 AND 6),
    granularity smallint NOT NULL CHECK (granularity BETWEEN 1 AND 3),
    bucket timestamptz NOT NULL,
    dimension_value text COLLATE "C" NOT NULL,
    value bigint NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (account_id, tag, dimension, granularity, bucket, dimension_value, value)
) WITH (fillfactor = 80);
COMMENT ON TABLE usage_by_names IS
    'Of each account in usage_folds: all requests that were admitted before its moment, and no others, by at most one tag and one dimension.';
COMMENT ON COLUMN usage_by_names.tag IS 'usage_tags.id of a name: requests that have this tag. 0: all requests, once.';
COMMENT ON COLUMN usage_by_names.dimension IS '1 key, 2 user, 3 model, 4 provider, 5 endpoint, 6 feature. 0: all together.';
COMMENT ON COLUMN usage_by_names.granularity IS '1 hour, 2 day, 3 month; buckets begin in UTC.';
COMMENT ON COLUMN usage_by_names.dimension_value IS 'The value of the dimension. Empty with dimension 0.';
COMMENT ON COLUMN usage_by_names.value IS 'usage_tags.id of a value, or of the name for all values that have no row. 0 with tag 0.';
COMMENT ON TABLE usage_folds IS
    'Accounts whose hours before a moment are in usage_by_names, too; read from there once they are caught up.';

-- For readers of the release before. It folds into this view no more: it has none of the columns of its key.
CREATE VIEW usage_by_one AS
SELECT account_id, CASE WHEN tag = 0 THEN -dimension ELSE tag END AS kind, granularity, bucket,
    CASE WHEN tag = 0 THEN dimension_value ELSE value::text END AS value, requests, input_tokens, cached_input_tokens,
    cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
FROM usage_by_names WHERE (tag = 0) <> (dimension = 0);

-- Rollers of older releases would raise the sums of hours that are folded, and not all of these. They fail, as with 0055, and
-- leave fresh rows to ours.
CREATE OR REPLACE FUNCTION refuse_half_sums() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('metergate.sums_by_names', true) IS DISTINCT FROM 'raised' THEN
        RAISE EXCEPTION 'usage is moved by gateways of a newer release alone, which sum it up by tag and dimension, too';
    END IF;
    RETURN NULL;
END $$;
