-- Keep an event as it came, once; no row for one that is known.
INSERT INTO payment_events (provider, id, type, ref_kind, ref_id, livemode, body, state, error, created_at, number, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, CASE WHEN $8 = 'ignored' THEN now() END)
ON CONFLICT (provider, id) DO NOTHING
RETURNING id
