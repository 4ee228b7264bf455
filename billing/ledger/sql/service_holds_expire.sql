-- Holds whose time is over, at most $1 of them, expire.
UPDATE service_holds SET state = 'expired', ended_at = now()
WHERE id = ANY (ARRAY(
    SELECT id FROM service_holds WHERE state = 'held' AND expires_at < now()
    ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING id, account_id, 'service:' || service AS key_id
