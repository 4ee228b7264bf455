-- Take the event that is to be looked into next. It is tried again after $2 seconds, twice as long for each try before, at
-- most $3: also where whoever took it, gateway $4, dies and does not say.
UPDATE payment_events SET attempts = attempts + 1, claimed_by = $4,
    next_attempt_at = now() + least($3, $2 * 2.0 ^ least(attempts, 30)) * interval '1 second'
WHERE (provider, id) = (
    SELECT provider, id FROM payment_events
    WHERE state = 'waiting' AND provider = $1 AND next_attempt_at <= now()
    ORDER BY next_attempt_at, received_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, type, ref_kind, ref_id, attempts, now() AS taken_at
