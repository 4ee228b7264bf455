WITH old AS (
    SELECT subject FROM sign_in_tries WHERE updated_at < now() - interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM sign_in_tries USING old WHERE sign_in_tries.subject = old.subject RETURNING 1)
SELECT count(*) FROM gone
