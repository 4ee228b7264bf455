-- What was used in windows of many accounts: for each place $1 and window $3 of account $2 what its keys used from second
-- $5 on and before second $6, by feature, and by model where $7 asks for that. Rollups and what they do not have yet, of one snapshot, as in
-- window_usage.sql. OFFSET 0 keeps each to one short reading of the rollups' index, whatever the planner believes of the
-- table; of fresh rows there are few, and they are read once.
WITH windows AS (
    SELECT * FROM unnest($1::integer[], $2::text[], $3::smallint[], $4::smallint[], $5::bigint[], $6::bigint[],
        $7::boolean[]) AS w (place, account_id, code, granularity, since_s, until_s, by_model)
), fresh AS MATERIALIZED (
    SELECT account_id, date_bin('1 minute', admitted_at, timestamptz 'epoch') AS minute, key_id, feature, model,
        count(*) AS requests, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(charged_nano) AS cost_nano
    FROM usage_fresh
    WHERE account_id = ANY ($2::text[])
    GROUP BY 1, 2, 3, 4, 5
), used AS (
    SELECT w.place, w.code, w.by_model, r.key_id, r.feature, r.model, r.requests, r.input_tokens, r.output_tokens,
        r.cost_nano
    FROM windows w CROSS JOIN LATERAL (
        SELECT u.key_id, u.feature, u.model, u.requests, u.input_tokens, u.output_tokens, u.charged_nano AS cost_nano
        FROM usage_rollups u
        WHERE u.account_id = w.account_id AND u.granularity = w.granularity AND u.bucket >= to_timestamp(w.since_s)
            AND u.bucket < to_timestamp(w.until_s)
        OFFSET 0
    ) AS r
    UNION ALL
    SELECT w.place, w.code, w.by_model, f.key_id, f.feature, f.model, f.requests, f.input_tokens, f.output_tokens,
        f.cost_nano
    FROM windows w JOIN fresh f ON f.account_id = w.account_id AND f.minute >= to_timestamp(w.since_s)
        AND f.minute < to_timestamp(w.until_s)
)
SELECT place, code, key_id, feature, CASE WHEN by_model THEN model ELSE '' END AS model, sum(requests)::bigint AS requests,
    sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
    sum(cost_nano)::bigint AS cost_nano
FROM used
GROUP BY 1, 2, 3, 4, 5
