SELECT id, name FROM api_keys WHERE account_id = $1 AND id = ANY($2::text[])
