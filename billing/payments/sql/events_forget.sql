-- Drop at most $2 events that ended more than $1 days ago; what waits for an operator stays.
WITH old AS (
    SELECT provider, id FROM payment_events
    WHERE received_at < now() - $1 * interval '1 day' AND state IN ('done', 'ignored') ORDER BY received_at LIMIT $2
), dropped AS (
    DELETE FROM payment_events USING old
    WHERE payment_events.provider = old.provider AND payment_events.id = old.id RETURNING 1
)
SELECT count(*) FROM dropped
