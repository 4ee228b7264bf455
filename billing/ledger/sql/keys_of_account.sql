SELECT id, quotas FROM api_keys WHERE account_id = $1 ORDER BY id
