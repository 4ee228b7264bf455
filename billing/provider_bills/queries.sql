-- Statements of `billing.provider_bills`, each under its name. `billing.database.connection.queries` reads them.

-- name: comparisons_read
SELECT provider, difference_nano::text AS difference_nano FROM provider_comparisons

-- name: comparisons_set
INSERT INTO provider_comparisons (provider, since, until, ours_nano, theirs_nano, difference_nano)
VALUES ($1, $2, $3, $4::text::numeric, $5::text::numeric, $6::text::numeric)
ON CONFLICT (provider) DO UPDATE SET since = excluded.since, until = excluded.until, ours_nano = excluded.ours_nano,
    theirs_nano = excluded.theirs_nano, difference_nano = excluded.difference_nano, at = now()

-- name: lines_add
INSERT INTO provider_bill_lines (provider, source, day, model, key, line, requests, input_tokens, output_tokens, amount_nano)
SELECT $1, $2, * FROM unnest($3::date[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])

-- name: lines_forget
DELETE FROM provider_bill_lines WHERE provider = $1 AND source = $2 AND day >= $3 AND day < $4

-- name: lines_read
-- The lines of a provider from one source, of the days from $3 on and before $4; of the keys $5 alone, where some are named, and
-- of no key.
SELECT day, model, key, line, requests, input_tokens, output_tokens, amount_nano
FROM provider_bill_lines
WHERE provider = $1 AND source = $2 AND day >= $3 AND day < $4 AND (cardinality($5::text[]) = 0 OR key = '' OR key = ANY($5))

-- name: ours_read
-- What we have of the providers $1: of the requests that were admitted from $2 on and before $3, by day of UTC and by the model
-- that the provider was asked for. created_at has a small index, and is never before the admission but for clocks that differ.
SELECT (admitted_at AT TIME ZONE 'UTC')::date AS day, provider_model AS model, count(*) AS requests,
    sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens, sum(cost_nano)::text AS amount_nano
FROM usage_events
WHERE provider = ANY($1) AND admitted_at >= $2 AND admitted_at < $3 AND created_at >= $2 - interval '1 day'
    AND (outcome = 'settled' OR charged_nano > 0)
GROUP BY 1, 2
