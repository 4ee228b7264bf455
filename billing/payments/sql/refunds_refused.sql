DELETE FROM order_refunds WHERE order_id = $1 AND key = $2 AND refund_id IS NULL
