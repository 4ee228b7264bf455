SELECT * FROM api_keys WHERE ($1::text IS NULL OR account_id = $1) AND id < $2 ORDER BY id DESC LIMIT $3
