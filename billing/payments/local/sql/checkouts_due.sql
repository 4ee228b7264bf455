SELECT id FROM local_objects
WHERE kind = 'checkout' AND state ->> 'status' = 'open' AND (state ->> 'expires_at')::timestamptz <= $1
ORDER BY id LIMIT $2
