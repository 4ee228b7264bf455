UPDATE api_keys SET
    name = $2,
    scopes = $3,
    models = $4,
    quotas = $5,
    max_parallel_requests = $6,
    expires_at = $7,
    tags = $8,
    version = version + 1
WHERE id = $1
RETURNING *
