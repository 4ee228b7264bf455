-- Have an event looked into again, whatever has become of it.
UPDATE payment_events SET state = CASE WHEN ref_id IS NULL THEN state ELSE 'waiting' END, attempts = 0, error = NULL,
    next_attempt_at = now(), received_at = now(), ended_at = NULL
WHERE id = $1
RETURNING number, provider, id, type, ref_kind, ref_id, livemode, state, attempts, error, created_at, received_at,
    next_attempt_at, ended_at
