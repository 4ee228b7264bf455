-- Move at most $1 fresh rows into the rollups of all four granularities, and answer how many: rows of minutes that are over,
-- so that most rollups are raised once a minute, and others too while there are $2 fresh rows or more. One statement:
-- whoever reads rollups and fresh rows in one snapshot finds each request once, whenever that is. Whoever does not get the
-- lock $3, which ends with the transaction, leaves it to the one who has it. Rollups are written in the order of their key.
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock($3) AS ours
), moved AS (
    DELETE FROM usage_fresh
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM usage_fresh
        WHERE (SELECT ours FROM turn)
            AND (admitted_at < date_bin('1 minute', now(), timestamptz 'epoch')
                OR (SELECT count(*) FROM (SELECT FROM usage_fresh LIMIT $2) AS first) = $2)
        LIMIT $1))
    RETURNING *
), minutes AS MATERIALIZED (
    SELECT account_id, date_bin('1 minute', admitted_at, timestamptz 'epoch') AS minute, key_id, model, feature,
        count(*) AS requests, sum(input_tokens)::bigint AS input_tokens,
        sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
        sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
        sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM moved
    GROUP BY 1, 2, 3, 4, 5
), rolled AS (
    INSERT INTO usage_rollups AS r (account_id, granularity, bucket, key_id, model, feature, requests, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
    SELECT account_id, g.code, date_trunc(g.unit, minute, 'UTC') AS bucket, key_id, model, feature, sum(requests),
        sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
        sum(cost_nano), sum(charged_nano)
    FROM minutes CROSS JOIN (VALUES (0, 'minute'), (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 1, 2, 3, 4, 5, 6
    ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (account_id, granularity, bucket, key_id, model, feature) DO UPDATE SET
        requests = r.requests + excluded.requests,
        input_tokens = r.input_tokens + excluded.input_tokens,
        cached_input_tokens = r.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
        output_tokens = r.output_tokens + excluded.output_tokens,
        reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens,
        cost_nano = r.cost_nano + excluded.cost_nano,
        charged_nano = r.charged_nano + excluded.charged_nano
)
SELECT count(*) FROM moved
