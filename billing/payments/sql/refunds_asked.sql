SELECT key, amount_cents, refund_id FROM order_refunds WHERE order_id = $1 AND (key = $2 OR refund_id IS NULL)
