-- Which hours of account $1 are folded next, before $2: so many that they have about $3 sums, without tags and of all tags, and
-- one at least: requests of few combinations can have many values of a tag. No row: none is left.
WITH begun AS (
    SELECT coalesce((SELECT until FROM usage_folds WHERE account_id = $1), (
        SELECT bucket FROM usage_sums WHERE account_id = $1 AND granularity = 1 AND tag = 0 ORDER BY bucket LIMIT 1
    )) AS since
), tags AS (
    SELECT 0::bigint AS id UNION ALL SELECT id FROM usage_tags WHERE account_id = $1 AND value IS NULL
)
SELECT since, least($2::timestamptz, (
    SELECT min(next.bucket)
    FROM tags CROSS JOIN LATERAL (
        SELECT greatest(bucket, since + interval '1 hour') AS bucket FROM usage_sums
        WHERE account_id = $1 AND granularity = 1 AND tag = tags.id AND bucket >= since
        ORDER BY usage_sums.bucket OFFSET $3 / (SELECT count(*) FROM tags) LIMIT 1
    ) AS next
)) AS until
FROM begun WHERE since < $2
