-- Sums from $1 on and before $2 that are not those of their events, and sums without any. What counts is as in write_debits.sql, the buckets as in
-- roll_usage.sql. Fresh rows are taken off: what is left of the events is what the sums must have. Dimensions and tags are
-- compared by the ids that they have: an event of a combination without a row differs. verify_dropped.sql
-- knows of months whose events were dropped.
WITH every AS (
    SELECT account_id, admitted_at, key_id, user_id, model, provider, endpoint, feature, tags, 1 AS requests, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM usage_events
    WHERE (outcome = 'settled' OR input_tokens + output_tokens > 0) AND admitted_at >= $1 AND admitted_at < $2
    UNION ALL
    SELECT f.account_id, f.admitted_at, f.key_id, coalesce(f.user_id, e.user_id), f.model, coalesce(f.provider, e.provider),
        coalesce(f.endpoint, e.endpoint), f.feature, coalesce(f.tags, e.tags), -1, -input_tokens, -cached_input_tokens,
        -cache_write_tokens, -output_tokens, -reasoning_tokens, -cost_nano, -charged_nano
    FROM usage_fresh AS f LEFT JOIN LATERAL (
        SELECT u.user_id, u.provider, u.endpoint, u.tags FROM usage_events AS u
        WHERE f.provider IS NULL AND u.account_id = f.account_id AND u.admitted_at = f.admitted_at AND u.key_id = f.key_id
            AND u.model = f.model AND u.feature = f.feature AND u.input_tokens = f.input_tokens
            AND u.output_tokens = f.output_tokens AND u.charged_nano = f.charged_nano
        LIMIT 1
    ) AS e ON true
    WHERE f.admitted_at >= $1 AND f.admitted_at < $2
), minutes AS MATERIALIZED (
    SELECT account_id, date_trunc('minute', admitted_at, 'UTC') AS minute, coalesce(d.id, 0) AS dimensions, tags,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM (SELECT account_id, admitted_at, key_id, coalesce(user_id, '') AS user_id, model, provider, endpoint, feature, tags,
            requests, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano,
            charged_nano
        FROM every) AS e
    LEFT JOIN usage_dimensions AS d USING (account_id, key_id, user_id, model, provider, endpoint, feature)
    GROUP BY 1, 2, 3, 4
), each AS (
    SELECT minutes.*, 0 AS tag, 0 AS value FROM minutes
    UNION ALL
    SELECT minutes.*, n.id, coalesce(v.id, n.id)
    FROM minutes JOIN usage_tags AS n ON n.account_id = minutes.account_id AND n.value IS NULL
    LEFT JOIN usage_tags AS v ON v.account_id = minutes.account_id AND v.name = n.name AND v.value = minutes.tags ->> n.name
    WHERE minutes.tags ->> n.name IS NOT NULL
), summed AS (
    SELECT account_id, g.code AS granularity, tag, date_trunc(g.unit, minute, 'UTC') AS bucket, dimensions, value,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM each CROSS JOIN (VALUES (0, 'minute'), (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 1, 2, 3, 4, 5, 6
    HAVING (sum(requests), sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens),
        sum(reasoning_tokens), sum(cost_nano), sum(charged_nano)) <> (0, 0, 0, 0, 0, 0, 0, 0)
), dropped AS MATERIALIZED (
    SELECT DISTINCT month::timestamp AT TIME ZONE 'UTC' AS month FROM usage_months_dropped
), rolled AS (
    SELECT * FROM usage_sums WHERE bucket >= $1 AND bucket < $2
), differing AS (
    SELECT account_id, granularity, tag, bucket, dimensions, value, s.requests AS events, r.requests,
        s.charged_nano AS events_charged_nano, r.charged_nano
    FROM summed AS s FULL JOIN rolled AS r USING (account_id, granularity, tag, bucket, dimensions, value)
    WHERE date_trunc('month', bucket, 'UTC') NOT IN (SELECT month FROM dropped)
        AND (s.requests, s.input_tokens, s.cached_input_tokens, s.cache_write_tokens, s.output_tokens, s.reasoning_tokens,
            s.cost_nano, s.charged_nano)
        IS DISTINCT FROM (r.requests, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens, r.output_tokens,
            r.reasoning_tokens, r.cost_nano, r.charged_nano)
)
SELECT x.*, d.key_id, d.user_id, d.model, d.provider, d.endpoint, d.feature, n.name, v.value AS said
FROM differing AS x LEFT JOIN usage_dimensions AS d ON d.id = x.dimensions LEFT JOIN usage_tags AS n ON n.id = x.tag
LEFT JOIN usage_tags AS v ON v.id = x.value
ORDER BY x.account_id, x.granularity, x.bucket
