-- What the rollups say was used in windows of many accounts: for each place $1 and window $3 of account $2 what its keys
-- used from second $5 on, by feature, and by model where $6 asks for that. OFFSET 0 keeps each to one short reading of the
-- rollups' index, whatever the planner believes of the table.
SELECT w.place, w.code, r.key_id, r.feature, r.model, sum(r.requests)::bigint AS requests,
    sum(r.input_tokens)::bigint AS input_tokens, sum(r.output_tokens)::bigint AS output_tokens,
    sum(r.cost_nano)::bigint AS cost_nano
FROM unnest($1::integer[], $2::text[], $3::smallint[], $4::smallint[], $5::bigint[], $6::boolean[])
    AS w (place, account_id, code, granularity, since_s, by_model)
CROSS JOIN LATERAL (
    SELECT u.key_id, u.feature, CASE WHEN w.by_model THEN u.model ELSE '' END AS model, u.requests, u.input_tokens,
        u.output_tokens, u.charged_nano::bigint AS cost_nano
    FROM usage_rollups u
    WHERE u.account_id = w.account_id AND u.granularity = w.granularity AND u.bucket >= to_timestamp(w.since_s)
    OFFSET 0
) AS r
GROUP BY 1, 2, 3, 4, 5
