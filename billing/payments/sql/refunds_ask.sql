INSERT INTO order_refunds (order_id, key, amount_cents) VALUES ($1, $2, $3)
