-- The months of the rollups and what these do not have yet, of one snapshot.
WITH used AS (
    SELECT key_id, requests, input_tokens, output_tokens, charged_nano FROM usage_rollups
    WHERE account_id = $1 AND granularity = 3
    UNION ALL
    SELECT key_id, 1, input_tokens, output_tokens, charged_nano FROM usage_fresh WHERE account_id = $1
)
SELECT
    coalesce(sum(requests), 0) AS events,
    coalesce(sum(input_tokens), 0) AS input_tokens,
    coalesce(sum(output_tokens), 0) AS output_tokens,
    coalesce(sum(charged_nano), 0) AS charged_nano
FROM used
WHERE ($2::text IS NULL OR key_id = $2)
    AND ($3::text IS NULL OR key_id IN (SELECT id FROM api_keys WHERE account_id = $1 AND user_id = $3))
