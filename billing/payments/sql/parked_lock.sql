SELECT * FROM payments_parked WHERE id = $1 OR (order_id = $1 AND state = 'parked') ORDER BY id LIMIT 1 FOR NO KEY UPDATE
