-- What we have of the providers $1: of the requests that were admitted from $2 on and before $3, by day of UTC and by the model
-- that the provider was asked for. created_at has a small index, and is never before the admission but for clocks that differ.
SELECT (admitted_at AT TIME ZONE 'UTC')::date AS day, provider_model AS model, count(*) AS requests,
    sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens, sum(cost_nano)::text AS amount_nano
FROM usage_events
WHERE provider = ANY($1) AND admitted_at >= $2 AND admitted_at < $3 AND created_at >= $2 - interval '1 day'
    AND (outcome = 'settled' OR charged_nano > 0)
GROUP BY 1, 2
