-- Usage is summed by user, provider, endpoint and tag, too, and not by key, model and feature alone. usage_sums takes the place of
-- usage_rollups: a combination of dimensions is written once, and each sum has its number.

SET LOCAL work_mem = '256MB';
SET LOCAL jit = off;

ALTER TABLE accounts ADD COLUMN tz text;
COMMENT ON COLUMN accounts.tz IS 'The IANA time zone in which days and months of reports begin; null: UTC.';

-- What is written by gateways that know none of these is looked up in usage_events when it is moved.
ALTER TABLE usage_fresh ADD COLUMN user_id text, ADD COLUMN provider text, ADD COLUMN endpoint text, ADD COLUMN tags jsonb;

CREATE TABLE usage_dimensions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL,
    key_id text NOT NULL,
    user_id text NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    endpoint text NOT NULL,
    feature text NOT NULL,
    UNIQUE (account_id, key_id, user_id, model, provider, endpoint, feature)
);
COMMENT ON TABLE usage_dimensions IS 'Each combination that an account has used. user_id is empty for a key of nobody.';

CREATE TABLE usage_tags (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL,
    name text NOT NULL,
    value text
);
CREATE UNIQUE INDEX usage_tags_names ON usage_tags (account_id, name) WHERE value IS NULL;
CREATE UNIQUE INDEX usage_tags_values ON usage_tags (account_id, name, value) WHERE value IS NOT NULL;
COMMENT ON TABLE usage_tags IS
    'Names of tags that are summed, with a null value, and their values: the first ones of each account, because clients '
    'choose them. Later values of a name are summed together under the row of the name.';

CREATE TABLE usage_sums (
    account_id text NOT NULL,
    granularity smallint NOT NULL CHECK (granularity BETWEEN 0 AND 3),
    tag bigint NOT NULL,
    bucket timestamptz NOT NULL,
    dimensions bigint NOT NULL,
    value bigint NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (account_id, granularity, tag, bucket, dimensions, value)
) WITH (fillfactor = 80);
COMMENT ON COLUMN usage_sums.granularity IS '0 minute, 1 hour, 2 day, 3 month; buckets begin in UTC.';
COMMENT ON COLUMN usage_sums.tag IS 'usage_tags.id of a name: requests that have this tag. 0: all requests, once.';
COMMENT ON COLUMN usage_sums.value IS 'usage_tags.id of a value, or of the name for all values that have no row. 0 with tag 0.';

-- Transfers of other kinds than usage, of which an account has few.
CREATE INDEX transfers_debit_other ON transfers (debit_account, id) WHERE kind <> 'usage';

-- What is there already. Nothing is fresh while it is summed: usage_fresh is locked by its change above, so that every event
-- that counts, with a fresh row or without, is of a transaction that has ended.
DELETE FROM usage_fresh;

INSERT INTO usage_dimensions (account_id, key_id, user_id, model, provider, endpoint, feature)
SELECT DISTINCT account_id, key_id, coalesce(user_id, ''), model, provider, endpoint, feature
FROM usage_events
WHERE outcome = 'settled' OR input_tokens + output_tokens > 0;

INSERT INTO usage_tags (account_id, name)
SELECT account_id, name
FROM (
    SELECT account_id, t.key AS name, row_number() OVER (PARTITION BY account_id ORDER BY min(admitted_at), t.key) AS place
    FROM usage_events CROSS JOIN LATERAL jsonb_each_text(tags) AS t
    WHERE jsonb_typeof(tags) = 'object' AND (outcome = 'settled' OR input_tokens + output_tokens > 0)
    GROUP BY 1, 2
) AS used
WHERE place <= 16;

INSERT INTO usage_tags (account_id, name, value)
SELECT account_id, name, value
FROM (
    SELECT e.account_id, n.name, e.tags ->> n.name AS value,
        row_number() OVER (PARTITION BY e.account_id, n.name ORDER BY min(admitted_at), e.tags ->> n.name) AS place
    FROM usage_events AS e JOIN usage_tags AS n ON n.account_id = e.account_id AND n.value IS NULL
    WHERE e.tags ->> n.name IS NOT NULL AND (e.outcome = 'settled' OR e.input_tokens + e.output_tokens > 0)
    GROUP BY 1, 2, 3
) AS used
WHERE place <= 1000;

ANALYZE usage_dimensions;
ANALYZE usage_tags;
WITH minutes AS MATERIALIZED (
    SELECT e.account_id, date_trunc('minute', admitted_at, 'UTC') AS minute, d.id AS dimensions, tags, count(*) AS requests,
        sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM usage_events AS e JOIN usage_dimensions AS d ON d.account_id = e.account_id AND d.key_id = e.key_id
        AND d.user_id = coalesce(e.user_id, '') AND d.model = e.model AND d.provider = e.provider
        AND d.endpoint = e.endpoint AND d.feature = e.feature
    WHERE outcome = 'settled' OR input_tokens + output_tokens > 0
    GROUP BY 1, 2, 3, 4
), each AS (
    SELECT minutes.*, 0 AS tag, 0 AS value FROM minutes
    UNION ALL
    SELECT minutes.*, n.id, coalesce(v.id, n.id)
    FROM minutes JOIN usage_tags AS n ON n.account_id = minutes.account_id AND n.value IS NULL
    LEFT JOIN usage_tags AS v ON v.account_id = minutes.account_id AND v.name = n.name AND v.value = minutes.tags ->> n.name
    WHERE minutes.tags ->> n.name IS NOT NULL
)
INSERT INTO usage_sums (account_id, granularity, tag, bucket, dimensions, value, requests, input_tokens,
    cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
SELECT account_id, g.code, tag, date_trunc(g.unit, minute, 'UTC'), dimensions, value, sum(requests), sum(input_tokens),
    sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cost_nano),
    sum(charged_nano)
FROM each CROSS JOIN (VALUES (0, 'minute'), (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
GROUP BY 1, 2, 3, 4, 5, 6
ORDER BY 1, 2, 3, 4, 5, 6;

-- Windows are rebuilt from it, by gateways of older releases, too. Their rollers can't write it, and leave fresh rows to ours.
DROP TABLE usage_rollups;
CREATE VIEW usage_rollups AS
SELECT s.account_id, s.granularity, s.bucket, d.key_id, d.model, d.feature, s.requests, s.input_tokens, s.cached_input_tokens,
    s.cache_write_tokens, s.output_tokens, s.reasoning_tokens, s.cost_nano, s.charged_nano
FROM usage_sums AS s JOIN usage_dimensions AS d ON d.id = s.dimensions AND d.account_id = s.account_id
WHERE s.tag = 0;
COMMENT ON VIEW usage_rollups IS 'All requests, once; of one key, model and feature there may be several rows.';
RESET work_mem;
RESET jit;
