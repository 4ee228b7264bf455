SELECT * FROM orders WHERE account_id = $1 AND idempotency_key = $2
