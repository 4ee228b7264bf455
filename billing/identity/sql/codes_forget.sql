WITH old AS (
    SELECT id FROM one_time_codes WHERE expires_at < now() - interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM one_time_codes USING old WHERE one_time_codes.id = old.id RETURNING 1)
SELECT count(*) FROM gone
