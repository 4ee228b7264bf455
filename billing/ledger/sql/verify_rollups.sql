-- Rollups from $1 on and before $2 that are not the sums of their events, and sums without a rollup. What counts is as in
-- write_debits.sql, the buckets as in roll_usage.sql. Fresh rows are taken off: what is left of the events is what the
-- rollups must have. Of months whose events were dropped verify_dropped.sql knows.
WITH minutes AS (
    SELECT account_id, date_trunc('minute', admitted_at, 'UTC') AS bucket, key_id, model, feature, count(*) AS requests,
        sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM usage_events
    WHERE (outcome = 'settled' OR input_tokens + output_tokens > 0) AND admitted_at >= $1 AND admitted_at < $2
    GROUP BY 1, 2, 3, 4, 5
    UNION ALL
    SELECT account_id, date_trunc('minute', admitted_at, 'UTC'), key_id, model, feature, -count(*),
        -sum(input_tokens), -sum(cached_input_tokens), -sum(cache_write_tokens), -sum(output_tokens),
        -sum(reasoning_tokens), -sum(cost_nano), -sum(charged_nano)
    FROM usage_fresh
    WHERE admitted_at >= $1 AND admitted_at < $2
    GROUP BY 1, 2, 3, 4, 5
), summed AS (
    SELECT account_id, g.code AS granularity, date_trunc(g.unit, minutes.bucket, 'UTC') AS bucket, key_id, model, feature,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM minutes CROSS JOIN (VALUES (0, 'minute'), (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 1, 2, 3, 4, 5, 6
    HAVING (sum(requests), sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens),
        sum(reasoning_tokens), sum(cost_nano), sum(charged_nano)) <> (0, 0, 0, 0, 0, 0, 0, 0)
), dropped AS MATERIALIZED (
    SELECT DISTINCT month::timestamp AT TIME ZONE 'UTC' AS month FROM usage_months_dropped
), rolled AS (
    SELECT * FROM usage_rollups WHERE bucket >= $1 AND bucket < $2
)
SELECT account_id, granularity, bucket, key_id, model, feature,
    s.requests AS events, r.requests, s.charged_nano AS events_charged_nano, r.charged_nano
FROM summed AS s FULL JOIN rolled AS r USING (account_id, granularity, bucket, key_id, model, feature)
WHERE date_trunc('month', bucket, 'UTC') NOT IN (SELECT month FROM dropped)
    AND (s.requests, s.input_tokens, s.cached_input_tokens, s.cache_write_tokens, s.output_tokens, s.reasoning_tokens,
        s.cost_nano, s.charged_nano)
    IS DISTINCT FROM (r.requests, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens, r.output_tokens,
        r.reasoning_tokens, r.cost_nano, r.charged_nano)
ORDER BY account_id, granularity, bucket
