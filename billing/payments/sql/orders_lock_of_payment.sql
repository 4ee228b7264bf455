SELECT * FROM orders WHERE provider = $1 AND payment_id = $2 FOR NO KEY UPDATE
