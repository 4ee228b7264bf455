-- Add the hours of account $1 from $2 on and before $3, of which it has folded none yet, to its sums by dimension, by pair of
-- dimensions, by tag and by tag and dimension, and note that it has; with $4 it is caught up. The turn is taken, so that no sums are raised meanwhile.
WITH hours AS (
    SELECT bucket, tag, s.value, d.key_id, d.user_id, d.model, d.provider, d.endpoint, d.feature, requests, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM usage_sums AS s JOIN usage_dimensions AS d ON d.account_id = s.account_id AND d.id = s.dimensions
    WHERE s.account_id = $1 AND granularity = 1 AND bucket >= $2 AND bucket < $3 AND tag = ANY (ARRAY(
        SELECT 0::bigint UNION ALL SELECT id FROM usage_tags WHERE account_id = $1 AND value IS NULL))
), by_names AS MATERIALIZED (
    SELECT bucket, tag, value,
        CASE WHEN key_id IS NOT NULL THEN 1 WHEN user_id IS NOT NULL THEN 2 WHEN model IS NOT NULL THEN 3
            WHEN provider IS NOT NULL THEN 4 WHEN endpoint IS NOT NULL THEN 5 WHEN feature IS NOT NULL THEN 6 ELSE 0
        END AS dimension,
        coalesce(key_id, user_id, model, provider, endpoint, feature, '') AS dimension_value,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM hours
    GROUP BY bucket, tag, value, GROUPING SETS ((), key_id, user_id, model, provider, endpoint, feature)
    UNION ALL
    SELECT bucket, tag, value,
        10 * CASE WHEN key_id IS NOT NULL THEN 1 WHEN user_id IS NOT NULL THEN 2 WHEN model IS NOT NULL THEN 3
            WHEN provider IS NOT NULL THEN 4 ELSE 5 END
        + CASE WHEN feature IS NOT NULL THEN 6 WHEN endpoint IS NOT NULL THEN 5 WHEN provider IS NOT NULL THEN 4 ELSE 3 END,
        usage_pair(coalesce(key_id, user_id, model, provider, endpoint), coalesce(feature, endpoint, provider, model)),
        sum(requests), sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens),
        sum(reasoning_tokens), sum(cost_nano), sum(charged_nano)
    FROM hours WHERE tag = 0
    GROUP BY bucket, tag, value, GROUPING SETS ((key_id, model), (user_id, model), (user_id, provider), (user_id, endpoint),
        (user_id, feature), (model, provider), (model, endpoint), (model, feature), (provider, endpoint), (provider, feature),
        (endpoint, feature))
), hours_folded AS (
    INSERT INTO usage_by_names (account_id, tag, dimension, granularity, bucket, dimension_value, value, requests,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
    SELECT $1, tag, dimension, 1, bucket, dimension_value, value, requests, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM by_names ORDER BY 2, 3, 5, 6, 7
), folded AS (
    INSERT INTO usage_by_names AS s (account_id, tag, dimension, granularity, bucket, dimension_value, value, requests,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
    SELECT $1, tag, dimension, g.code, date_trunc(g.unit, bucket, 'UTC'), dimension_value, value, sum(requests),
        sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
        sum(cost_nano), sum(charged_nano)
    FROM by_names CROSS JOIN (VALUES (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 2, 3, 4, 5, 6, 7 ORDER BY 2, 3, 4, 5, 6, 7
    ON CONFLICT (account_id, tag, dimension, granularity, bucket, dimension_value, value) DO UPDATE SET
        requests = s.requests + excluded.requests,
        input_tokens = s.input_tokens + excluded.input_tokens,
        cached_input_tokens = s.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = s.cache_write_tokens + excluded.cache_write_tokens,
        output_tokens = s.output_tokens + excluded.output_tokens,
        reasoning_tokens = s.reasoning_tokens + excluded.reasoning_tokens,
        cost_nano = s.cost_nano + excluded.cost_nano,
        charged_nano = s.charged_nano + excluded.charged_nano
)
INSERT INTO usage_folds (account_id, until, caught_up) VALUES ($1, $3, $4)
ON CONFLICT (account_id) DO UPDATE SET until = excluded.until, caught_up = excluded.caught_up OR usage_folds.caught_up
