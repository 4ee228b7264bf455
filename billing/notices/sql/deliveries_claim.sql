-- Take the delivery that is due next, but for those to the endpoints $3 ('' is NOTIFICATION_WEBHOOK), which are sent to
-- now. It is due again after $1 seconds, twice as long for each try before, at most $2: also where whoever took it dies.
UPDATE webhook_deliveries d SET attempts = attempts + 1,
    next_attempt_at = now() + least($2, $1 * 2.0 ^ least(attempts, 30)) * interval '1 second'
FROM notices n
WHERE n.id = d.notice_id AND d.id = (
    SELECT id FROM webhook_deliveries
    WHERE delivered_at IS NULL AND parked_at IS NULL AND next_attempt_at <= now() AND coalesce(endpoint_id, '') <> ALL($3::text[])
    ORDER BY next_attempt_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING d.id, d.attempts, d.endpoint_id, n.id AS notice_id, n.account_id, n.type, n.data, n.created_at
