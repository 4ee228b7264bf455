-- Of a key that was rotated, the secret before it alone ends.
UPDATE api_keys SET
    revoked_at = CASE WHEN secret_sha256 = $2 THEN now() ELSE revoked_at END,
    previous_sha256 = NULL,
    previous_until = NULL,
    version = version + 1
WHERE id = $1
RETURNING *
