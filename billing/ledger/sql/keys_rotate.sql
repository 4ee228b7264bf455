UPDATE api_keys SET
    previous_sha256 = CASE WHEN $4 > 0 THEN secret_sha256 END,
    previous_until = CASE WHEN $4 > 0 THEN now() + $4 * interval '1 second' END,
    secret_sha256 = $2,
    prefix = $3,
    version = version + 1
WHERE id = $1
RETURNING *
