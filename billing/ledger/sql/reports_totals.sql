SELECT
    coalesce(sum(requests), 0) AS events,
    coalesce(sum(input_tokens), 0) AS input_tokens,
    coalesce(sum(output_tokens), 0) AS output_tokens,
    coalesce(sum(charged_nano), 0) AS charged_nano
FROM usage_rollups
WHERE account_id = $1
    AND granularity = 3
    AND ($2::text IS NULL OR key_id = $2)
    AND ($3::text IS NULL OR key_id IN (SELECT id FROM api_keys WHERE account_id = $1 AND user_id = $3))
