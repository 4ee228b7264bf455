-- Delete notices older than $1 days with their deliveries, whose tries have ended after hours at most.
WITH old AS (
    SELECT id FROM notices WHERE handed_out_at IS NOT NULL AND created_at < now() - $1 * interval '1 day'
    ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM notices USING old WHERE notices.id = old.id RETURNING 1)
SELECT count(*) FROM gone
