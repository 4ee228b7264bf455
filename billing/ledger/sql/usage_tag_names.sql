SELECT id, name FROM usage_tags WHERE account_id = $1 AND value IS NULL
