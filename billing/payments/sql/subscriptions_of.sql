SELECT * FROM subscriptions WHERE account_id = $1 ORDER BY created_at, id
