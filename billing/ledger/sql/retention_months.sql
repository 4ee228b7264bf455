-- The partitions of months that began more than $1 months before this one, the oldest first: by the server's clock and by
-- $2, a gateway's, whichever is behind. A month stays as long as an export has events of it to tell, which has run in the last
-- 35 days: then most others have no use for what is older.
SELECT partition::text AS partition, month, month AT TIME ZONE 'UTC' AS since,
    (month + interval '1 month') AT TIME ZONE 'UTC' AS until
FROM (
    SELECT inhrelid::regclass AS partition, to_timestamp(right(relname, 7), 'YYYY_MM')::timestamp AS month
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'usage_events'::regclass AND relname ~ '^usage_events_[0-9]{4}_[0-9]{2}$'
) AS months
WHERE month < date_trunc('month', least(now(), $2) AT TIME ZONE 'UTC') - $1 * interval '1 month'
    AND NOT EXISTS (
        SELECT FROM exports AS x JOIN usage_events AS e ON e.wseq > x.wseq
        WHERE x.lease_until > now() - interval '35 days' AND e.admitted_at >= month AT TIME ZONE 'UTC'
            AND e.admitted_at < (month + interval '1 month') AT TIME ZONE 'UTC'
    )
ORDER BY month
