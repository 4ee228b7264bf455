-- Sums of busy accounts by pairs of dimensions, beside those by one and by a tag. Of pairs with a key there is the one with the model
-- alone: an account may have a thousand keys, and would have more sums than requests. As with 0059 all are made anew in the background.
SET LOCAL lock_timeout = '10s';
SELECT pg_advisory_xact_lock(x'6D65746572726F6C'::bigint);
TRUNCATE usage_folds, usage_by_names;
RESET lock_timeout;
ALTER TABLE usage_by_names DROP CONSTRAINT usage_by_names_dimension_check,
    ADD CONSTRAINT usage_by_names_dimension_check
        CHECK (dimension IN (0, 1, 2, 3, 4, 5, 6, 13, 23, 24, 25, 26, 34, 35, 36, 45, 46, 56));
CREATE FUNCTION usage_pair(one text, other text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT length(one)::text || ':' || one || other $$;
COMMENT ON FUNCTION usage_pair IS 'Two values as one: whatever they are, each can be told from it.';
COMMENT ON TABLE usage_by_names IS
    'Of each account in usage_folds: all requests that were admitted before its moment, and no others, by at most one tag and one dimension, or by two dimensions.';
COMMENT ON COLUMN usage_by_names.dimension IS
    '1 key, 2 user, 3 model, 4 provider, 5 endpoint, 6 feature. 0: all together. 13 key and model, and so on: with tag 0 alone.';
COMMENT ON COLUMN usage_by_names.dimension_value IS 'The value of the dimension; of two as usage_pair has it. Empty with dimension 0.';

CREATE OR REPLACE VIEW usage_by_one AS
SELECT account_id, CASE WHEN tag = 0 THEN -dimension ELSE tag END AS kind, granularity, bucket,
    CASE WHEN tag = 0 THEN dimension_value ELSE value::text END AS value, requests, input_tokens, cached_input_tokens,
    cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
FROM usage_by_names WHERE (tag = 0) <> (dimension = 0) AND dimension <= 6;

-- Whoever does not raise pairs moves no usage, as with 0059.
CREATE OR REPLACE FUNCTION refuse_half_sums() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('metergate.sums_by_pairs', true) IS DISTINCT FROM 'raised' THEN
        RAISE EXCEPTION 'usage is moved by gateways of a newer release alone, which sum it up by pairs of dimensions, too';
    END IF;
    RETURN NULL;
END $$;
