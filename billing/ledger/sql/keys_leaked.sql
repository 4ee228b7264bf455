-- Revoke the key of this secret; of a key that was rotated, the former secret alone.
UPDATE api_keys SET
    revoked_at = CASE WHEN secret_sha256 = $2 THEN now() ELSE revoked_at END,
    previous_sha256 = NULL,
    previous_until = NULL,
    version = version + 1
WHERE id = $1
RETURNING *
