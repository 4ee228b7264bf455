SELECT kind, id, moved_nano, transfers FROM payment_movements WHERE order_id = $1
