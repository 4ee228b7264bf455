-- Sums of busy accounts by one dimension, or one tag, alone: what an account used by model, by key or by the values of a tag is
-- read from them, where the sums of all its combinations have ten to a hundred times as many rows. They are made of the sums
-- of hours that are over, by whoever moves usage, some hours of an account at a time: nothing is summed here, and no table is
-- read or locked. Until an account's are made, its reports are read as they were.
CREATE TABLE usage_by_one (
    account_id text NOT NULL,
    kind bigint NOT NULL,
    granularity smallint NOT NULL CHECK (granularity BETWEEN 1 AND 3),
    bucket timestamptz NOT NULL,
    value text COLLATE "C" NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (account_id, kind, granularity, bucket, value)
) WITH (fillfactor = 80);
COMMENT ON TABLE usage_by_one IS 'Of each account in usage_folds: all requests that were admitted before its moment, and no others.';
COMMENT ON COLUMN usage_by_one.kind IS
    'Below zero a dimension: -1 key, -2 user, -3 model, -4 provider, -5 endpoint, -6 feature. Above: usage_tags.id of a name, for '
    'requests that have this tag.';
COMMENT ON COLUMN usage_by_one.granularity IS '1 hour, 2 day, 3 month; buckets begin in UTC.';
COMMENT ON COLUMN usage_by_one.value IS
    'The value of the dimension, or usage_tags.id of the tag''s value, or of its name for all values that have no row.';

CREATE TABLE usage_folds (
    account_id text PRIMARY KEY,
    until timestamptz NOT NULL,
    caught_up boolean NOT NULL
);
COMMENT ON TABLE usage_folds IS 'Accounts whose hours before a moment are in usage_by_one, too; read from there once they are caught up.';

-- Rollers of older releases would raise the sums of hours that are folded, and not these. They fail instead, as with 0055, and leave fresh
-- rows to ours.
CREATE OR REPLACE FUNCTION refuse_half_sums() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('metergate.sums_by_one', true) IS DISTINCT FROM 'raised' THEN
        RAISE EXCEPTION 'usage is moved by gateways of a newer release alone, which sum it up for all accounts and by one dimension, too';
    END IF;
    RETURN NULL;
END $$;
