SELECT order_id FROM payments_parked WHERE id = $1 OR (order_id = $1 AND state = 'parked')
