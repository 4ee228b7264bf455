SELECT * FROM api_keys
WHERE account_id = $1 AND user_id = $2 AND (revoked_at IS NULL OR revoked_at > now())
ORDER BY id FOR NO KEY UPDATE
