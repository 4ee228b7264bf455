-- Whether every transaction has ended whose id is below that of mark $1; null where this server has not come to the mark: it is
-- another one than the one that gave it.
SELECT CASE WHEN xmax > $1 THEN xmin >= $1 END
FROM (
    SELECT pg_snapshot_xmin(now_is)::text::bigint AS xmin, pg_snapshot_xmax(now_is)::text::bigint AS xmax
    FROM pg_current_snapshot() AS now_is
) AS snapshot
