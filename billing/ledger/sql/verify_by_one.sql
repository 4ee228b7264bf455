-- Sums by one dimension or tag that are not what the sums by hour of the account come to before the moment that usage_folds
-- has, and sums without any.
WITH hours AS MATERIALIZED (
    SELECT s.* FROM usage_folds AS f JOIN usage_sums AS s ON s.account_id = f.account_id AND s.granularity = 1 AND s.bucket < f.until
), each AS (
    SELECT account_id, v.kind, bucket, v.value, requests, input_tokens, cached_input_tokens, cache_write_tokens,
        output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM hours JOIN usage_dimensions AS d USING (account_id) CROSS JOIN LATERAL (VALUES (-1::bigint, d.key_id),
        (-2, d.user_id), (-3, d.model), (-4, d.provider), (-5, d.endpoint), (-6, d.feature)) AS v (kind, value)
    WHERE tag = 0 AND d.id = dimensions
    UNION ALL
    SELECT account_id, tag, bucket, hours.value::text, requests, input_tokens, cached_input_tokens, cache_write_tokens,
        output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM hours WHERE tag <> 0
), by_hour AS MATERIALIZED (
    SELECT account_id, kind, bucket, each.value, sum(requests) AS requests, sum(input_tokens) AS input_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
        sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano,
        sum(charged_nano) AS charged_nano
    FROM each GROUP BY 1, 2, 3, 4
), summed AS (
    SELECT account_id, kind, g.code AS granularity, date_trunc(g.unit, bucket, 'UTC') AS bucket, by_hour.value,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM by_hour CROSS JOIN (VALUES (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 1, 2, 3, 4, 5
)
SELECT account_id, kind, granularity, bucket, value, s.requests AS sums, r.requests, s.charged_nano AS sums_charged_nano,
    r.charged_nano,
    coalesce((ARRAY['key', 'user', 'model', 'provider', 'endpoint', 'feature'])[-kind], 'tag ' || (
        SELECT n.name FROM usage_tags AS n WHERE n.id = kind), 'tag ' || kind) AS name,
    CASE WHEN kind < 0 THEN value ELSE (
        SELECT v.value FROM usage_tags AS v WHERE v.id = coalesce(s.value, r.value)::bigint) END AS said
FROM summed AS s FULL JOIN usage_by_one AS r USING (account_id, kind, granularity, bucket, value)
WHERE (s.requests, s.input_tokens, s.cached_input_tokens, s.cache_write_tokens, s.output_tokens, s.reasoning_tokens,
        s.cost_nano, s.charged_nano)
    IS DISTINCT FROM (r.requests, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens, r.output_tokens,
        r.reasoning_tokens, r.cost_nano, r.charged_nano)
ORDER BY account_id, kind, granularity, bucket, value
