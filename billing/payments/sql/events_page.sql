SELECT number, provider, id, type, ref_kind, ref_id, livemode, state, attempts, error, created_at, received_at, next_attempt_at,
    ended_at
FROM payment_events
WHERE number < $1 AND ($2::text IS NULL OR state = $2)
ORDER BY number DESC LIMIT $3
