SELECT * FROM orders WHERE provider = $1 AND subscription_id = $2 ORDER BY id DESC LIMIT 1 FOR NO KEY UPDATE
