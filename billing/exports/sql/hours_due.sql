-- Hours of export $1 that began $3 ago by the clock of a gateway ($2) and by this one, and have used more than was told, oldest first,
-- at most $4. What is to be told of each is stored, where it is not yet.
WITH due AS MATERIALIZED (
    SELECT account_id, meter, hour FROM export_hours
    WHERE export = $1 AND used > told AND NOT parked AND hour < least($2::timestamptz, now()) - $3::interval
    ORDER BY hour LIMIT $4
)
UPDATE export_hours AS h SET asked = coalesce(h.asked, h.used - h.told), asked_at = coalesce(h.asked_at, now())
FROM due
WHERE h.export = $1 AND h.account_id = due.account_id AND h.meter = due.meter AND h.hour = due.hour
RETURNING h.account_id, h.meter, h.hour, h.n, h.asked::bigint AS amount, now() - h.asked_at AS since
