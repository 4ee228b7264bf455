-- What keys $1 of accounts $2, in that order, were charged in the month of UTC that begins at $3: by key alone as far as the account is
-- folded, and of its combinations since. Each account is read by itself, once for all of its keys, which OFFSET 0 keeps
-- to short readings of indexes.
WITH accounts AS MATERIALIZED (
    SELECT asked.account_id, asked.keys, f.until, $3::timestamptz + interval '1 month' AS ends
    FROM (
        SELECT account_id, array_agg(key_id) AS keys FROM unnest($1::text[], $2::text[]) AS a (key_id, account_id) GROUP BY 1
    ) AS asked LEFT JOIN usage_folds AS f ON f.account_id = asked.account_id AND caught_up
), spent AS (
    SELECT s.key_id, s.charged_nano FROM accounts AS a CROSS JOIN LATERAL (
        SELECT dimension_value AS key_id, charged_nano FROM usage_by_names
        WHERE account_id = a.account_id AND tag = 0 AND dimension = 1 AND granularity = 3 AND bucket = $3
            AND dimension_value = ANY (a.keys) OFFSET 0
    ) AS s
    WHERE a.until IS NOT NULL
    UNION ALL
    SELECT s.key_id, s.charged_nano FROM accounts AS a CROSS JOIN LATERAL (
        SELECT d.key_id, u.charged_nano FROM usage_sums AS u JOIN usage_dimensions AS d ON d.id = u.dimensions
        WHERE u.account_id = a.account_id AND u.granularity = CASE WHEN a.until IS NULL THEN 3 ELSE 1 END AND u.tag = 0
            AND u.bucket >= greatest($3, a.until) AND u.bucket < a.ends AND d.key_id = ANY (a.keys) OFFSET 0
    ) AS s
    UNION ALL
    SELECT s.key_id, s.charged_nano FROM accounts AS a CROSS JOIN LATERAL (
        SELECT key_id, sum(charged_nano) AS charged_nano FROM usage_fresh
        WHERE account_id = a.account_id AND key_id = ANY (a.keys) AND admitted_at >= $3 AND admitted_at < a.ends GROUP BY 1
    ) AS s
)
SELECT key_id, sum(charged_nano)::text AS charged_nano FROM spent GROUP BY 1
