SELECT * FROM api_keys
WHERE (secret_sha256 = $1 OR (previous_sha256 = $1 AND previous_until > now()))
    AND (revoked_at IS NULL OR revoked_at > now())
FOR NO KEY UPDATE
