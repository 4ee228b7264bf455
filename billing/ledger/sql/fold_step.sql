-- Which hours of account $1 are folded next, before $2: so many that they have about $3 sums, and one at least. No row: none is left.
WITH begun AS (
    SELECT coalesce((SELECT until FROM usage_folds WHERE account_id = $1), (
        SELECT bucket FROM usage_sums WHERE account_id = $1 AND granularity = 1 AND tag = 0 ORDER BY bucket LIMIT 1
    )) AS since
)
SELECT since, least($2::timestamptz, (
    SELECT greatest(bucket, since + interval '1 hour') FROM usage_sums
    WHERE account_id = $1 AND granularity = 1 AND tag = 0 AND bucket >= since ORDER BY bucket OFFSET $3 LIMIT 1
)) AS until
FROM begun WHERE since < $2
