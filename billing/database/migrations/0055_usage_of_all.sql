-- What all accounts used in a day or a month, by account, and by model and provider: margins over an installation of many accounts
-- are read from these rows instead of from every account's. roll_usage.sql raises them in the statement that raises the sums
-- of each account, so that they are of the same requests at any moment.
CREATE TABLE usage_by_account (
    granularity smallint NOT NULL CHECK (granularity BETWEEN 2 AND 3),
    bucket timestamptz NOT NULL,
    account_id text NOT NULL,
    requests bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (granularity, bucket, account_id)
) WITH (fillfactor = 80);
COMMENT ON COLUMN usage_by_account.granularity IS '2 day, 3 month; buckets begin in UTC.';

CREATE TABLE usage_by_model (
    granularity smallint NOT NULL CHECK (granularity BETWEEN 2 AND 3),
    bucket timestamptz NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    requests bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (granularity, bucket, model, provider)
) WITH (fillfactor = 80);
COMMENT ON COLUMN usage_by_model.granularity IS '2 day, 3 month; buckets begin in UTC.';

-- Rollers of older releases would raise the sums and not these. They fail instead, and leave fresh rows to ours; every reader
-- adds those. Statements that do raise both say so for their transaction.
CREATE FUNCTION refuse_half_sums() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('metergate.sums_of_all', true) IS DISTINCT FROM 'raised' THEN
        RAISE EXCEPTION 'usage is moved by gateways of a newer release alone, which sum it up for all accounts, too';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER usage_sums_of_all BEFORE INSERT ON usage_sums FOR EACH STATEMENT EXECUTE FUNCTION refuse_half_sums();

-- What is there already. To make the trigger has locked the sums against whoever moves usage, and nobody else.
SET LOCAL work_mem = '256MB';
SET LOCAL jit = off;
INSERT INTO usage_by_account (granularity, bucket, account_id, requests, cost_nano, charged_nano)
SELECT granularity, bucket, account_id, sum(requests), sum(cost_nano), sum(charged_nano)
FROM usage_sums WHERE granularity >= 2 AND tag = 0 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
INSERT INTO usage_by_model (granularity, bucket, model, provider, requests, cost_nano, charged_nano)
SELECT s.granularity, s.bucket, d.model, d.provider, sum(s.requests), sum(s.cost_nano), sum(s.charged_nano)
FROM usage_sums AS s JOIN usage_dimensions AS d ON d.id = s.dimensions
WHERE s.granularity >= 2 AND s.tag = 0 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4;
ANALYZE usage_by_account;
ANALYZE usage_by_model;
RESET work_mem;
RESET jit;
