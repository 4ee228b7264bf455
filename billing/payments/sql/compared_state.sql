SELECT state, account_id, order_id FROM payment_objects WHERE provider = $1 AND kind = $2 AND id = $3
