-- What was asked to give back of order $1.
SELECT key, amount_cents, refund_id, created_at FROM order_refunds WHERE order_id = $1 ORDER BY created_at, key
