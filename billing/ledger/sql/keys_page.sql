SELECT * FROM api_keys
WHERE ($1::text IS NULL OR account_id = $1) AND ($4::text IS NULL OR user_id = $4) AND id < $2
ORDER BY id DESC LIMIT $3
