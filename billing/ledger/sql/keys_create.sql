INSERT INTO api_keys (id, account_id, user_id, name, prefix, secret_sha256, scopes, models, quotas,
    max_parallel_requests, expires_at, tags)
SELECT $1, accounts.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12
FROM accounts WHERE accounts.id = $2
RETURNING *
