-- Accounts whose hours are to be folded: those that are not caught up, and those that have $4 sums of hours or more that are
-- over and not folded. Who has none yet needs $1 in the last day: an account with fewer is read quickly as it is. Sums are
-- not more than requests, so that few accounts are looked at, and at most $3 of them at once, by chance: the others at
-- another time. With it until when hours are over, $2 being how long that takes.
WITH busy AS (
    SELECT account_id FROM usage_by_account
    WHERE granularity = 2 AND bucket >= date_trunc('day', now(), 'UTC') - interval '1 day'
    GROUP BY 1 HAVING sum(requests) >= $1
    UNION
    SELECT account_id FROM usage_folds
    WHERE NOT caught_up OR until < date_trunc('hour', now() - $2::interval, 'UTC') - interval '1 day'
), looked_at AS (
    SELECT account_id FROM busy ORDER BY random() LIMIT $3
)
SELECT account_id, date_trunc('hour', now() - $2::interval, 'UTC') AS ends
FROM looked_at LEFT JOIN usage_folds AS f USING (account_id)
WHERE NOT coalesce(f.caught_up, true) OR (
    SELECT count(*) FROM (
        SELECT FROM usage_sums AS s
        WHERE s.account_id = looked_at.account_id AND granularity = 1 AND tag = 0
            AND bucket >= coalesce(f.until, date_trunc('hour', now() - $2::interval, 'UTC') - interval '1 day')
            AND bucket < date_trunc('hour', now() - $2::interval, 'UTC')
        LIMIT CASE WHEN f.until IS NULL THEN $1 ELSE $4::bigint END) AS first
    ) = CASE WHEN f.until IS NULL THEN $1 ELSE $4 END
ORDER BY random()
