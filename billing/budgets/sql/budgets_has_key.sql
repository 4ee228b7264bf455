SELECT EXISTS (SELECT FROM api_keys WHERE id = $2 AND account_id = $1)
