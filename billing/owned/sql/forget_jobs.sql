-- Delete jobs that were done more than $1 days ago, at most $2 of them.
WITH gone AS (
    DELETE FROM background_jobs WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM background_jobs WHERE done_at < now() - $1 * interval '1 day' LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING 1)
SELECT count(*) FROM gone
