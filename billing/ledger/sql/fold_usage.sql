-- Add the hours of account $1 from $2 on and before $3, of which it has folded none yet, to its sums by one dimension or
-- tag, and note that it has; with $4 it is caught up. The turn is taken, so that no sums are raised meanwhile.
WITH hours AS MATERIALIZED (
    SELECT tag, bucket, dimensions, value, requests, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, cost_nano, charged_nano
    FROM usage_sums
    WHERE account_id = $1 AND granularity = 1 AND bucket >= $2 AND bucket < $3 AND tag = ANY (ARRAY(
        SELECT 0::bigint UNION ALL SELECT id FROM usage_tags WHERE account_id = $1 AND value IS NULL))
), each AS (
    SELECT bucket, v.kind, v.value, requests, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, cost_nano, charged_nano
    FROM hours JOIN usage_dimensions AS d ON d.id = dimensions CROSS JOIN LATERAL (VALUES (-1::bigint, d.key_id),
        (-2, d.user_id), (-3, d.model), (-4, d.provider), (-5, d.endpoint), (-6, d.feature)) AS v (kind, value)
    WHERE tag = 0
    UNION ALL
    SELECT bucket, tag, value::text, requests, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, cost_nano, charged_nano
    FROM hours WHERE tag <> 0
), one AS MATERIALIZED (
    SELECT bucket, kind, value, sum(requests) AS requests, sum(input_tokens) AS input_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
        sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano,
        sum(charged_nano) AS charged_nano
    FROM each GROUP BY 1, 2, 3
), folded AS (
    INSERT INTO usage_by_one AS s (account_id, kind, granularity, bucket, value, requests, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
    SELECT $1, kind, g.code, date_trunc(g.unit, bucket, 'UTC'), value, sum(requests), sum(input_tokens),
        sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cost_nano),
        sum(charged_nano)
    FROM one CROSS JOIN (VALUES (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 2, 3, 4, 5 ORDER BY 2, 3, 4, 5
    ON CONFLICT (account_id, kind, granularity, bucket, value) DO UPDATE SET
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
