UPDATE order_refunds SET refund_id = $3 WHERE order_id = $1 AND key = $2
