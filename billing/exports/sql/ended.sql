-- Whether every transaction has ended whose id is below that of a mark.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= $1
