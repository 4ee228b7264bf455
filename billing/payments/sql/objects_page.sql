SELECT id, state, created_at FROM payment_objects
WHERE provider = $1 AND kind = $2 AND account_id = $3 AND state IS NOT NULL AND (created_at, id) < ($4, $5)
ORDER BY created_at DESC, id DESC LIMIT $6
