SELECT id, account_id, type, data, created_at FROM notices WHERE handed_out_at IS NULL
ORDER BY created_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
