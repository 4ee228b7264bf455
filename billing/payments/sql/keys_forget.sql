-- Drop at most $2 keys that nobody has asked for in the time $1.
DELETE FROM spent_payment_keys WHERE key IN (
    SELECT key FROM spent_payment_keys WHERE spent_at < now() - $1::interval ORDER BY spent_at LIMIT $2)
