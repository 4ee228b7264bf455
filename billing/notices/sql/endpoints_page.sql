SELECT * FROM webhook_endpoints WHERE account_id IS NOT DISTINCT FROM $1 AND id < $2 ORDER BY id DESC LIMIT $3
