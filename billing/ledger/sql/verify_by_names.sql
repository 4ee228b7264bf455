-- Sums by dimension, by pair of dimensions, by tag and by tag and dimension that are not what the sums by hour of the account come to before the moment that
-- usage_folds has, and sums without any.
WITH hours AS (
    SELECT s.account_id, bucket, tag, value, d.key_id, d.user_id, d.model, d.provider, d.endpoint, d.feature, requests,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM usage_folds AS f JOIN usage_sums AS s ON s.account_id = f.account_id AND s.granularity = 1 AND s.bucket < f.until
        JOIN usage_dimensions AS d ON d.account_id = s.account_id AND d.id = s.dimensions
), by_hour AS MATERIALIZED (
    SELECT account_id, bucket, tag, value,
        CASE WHEN key_id IS NOT NULL THEN 1 WHEN user_id IS NOT NULL THEN 2 WHEN model IS NOT NULL THEN 3
            WHEN provider IS NOT NULL THEN 4 WHEN endpoint IS NOT NULL THEN 5 WHEN feature IS NOT NULL THEN 6 ELSE 0
        END AS dimension,
        coalesce(key_id, user_id, model, provider, endpoint, feature, '') AS dimension_value,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM hours
    GROUP BY account_id, bucket, tag, value, GROUPING SETS ((), key_id, user_id, model, provider, endpoint, feature)
    UNION ALL
    SELECT account_id, bucket, tag, value,
        10 * CASE WHEN key_id IS NOT NULL THEN 1 WHEN user_id IS NOT NULL THEN 2 WHEN model IS NOT NULL THEN 3
            WHEN provider IS NOT NULL THEN 4 ELSE 5 END
        + CASE WHEN feature IS NOT NULL THEN 6 WHEN endpoint IS NOT NULL THEN 5 WHEN provider IS NOT NULL THEN 4 ELSE 3 END,
        usage_pair(coalesce(key_id, user_id, model, provider, endpoint), coalesce(feature, endpoint, provider, model)),
        sum(requests), sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens),
        sum(reasoning_tokens), sum(cost_nano), sum(charged_nano)
    FROM hours WHERE tag = 0
    GROUP BY account_id, bucket, tag, value, GROUPING SETS ((key_id, model), (user_id, model), (user_id, provider), (user_id, endpoint),
        (user_id, feature), (model, provider), (model, endpoint), (model, feature), (provider, endpoint), (provider, feature),
        (endpoint, feature))
), summed AS (
    SELECT account_id, tag, dimension, g.code AS granularity, date_trunc(g.unit, bucket, 'UTC') AS bucket, dimension_value,
        value, sum(requests) AS requests, sum(input_tokens) AS input_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
        sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano,
        sum(charged_nano) AS charged_nano
    FROM by_hour CROSS JOIN (VALUES (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
)
SELECT account_id, granularity, bucket, s.requests AS sums, r.requests, s.charged_nano AS sums_charged_nano, r.charged_nano,
    nullif(concat_ws(',', (ARRAY['key', 'user', 'model', 'provider', 'endpoint', 'feature'])[dimension / 10],
        (ARRAY['key', 'user', 'model', 'provider', 'endpoint', 'feature'])[dimension % 10]), '') AS dimension, dimension_value,
    CASE WHEN tag <> 0 THEN 'tag ' || coalesce((SELECT n.name FROM usage_tags AS n WHERE n.id = tag), tag::text) END AS tag,
    (SELECT v.value FROM usage_tags AS v WHERE v.id = coalesce(s.value, r.value)) AS said
FROM summed AS s FULL JOIN usage_by_names AS r
    USING (account_id, tag, dimension, granularity, bucket, dimension_value, value)
WHERE (s.requests, s.input_tokens, s.cached_input_tokens, s.cache_write_tokens, s.output_tokens, s.reasoning_tokens,
        s.cost_nano, s.charged_nano)
    IS DISTINCT FROM (r.requests, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens, r.output_tokens,
        r.reasoning_tokens, r.cost_nano, r.charged_nano)
ORDER BY account_id, tag, dimension, granularity, bucket, dimension_value, value
