SELECT kind, id, account_id, order_id, difference, found_at FROM payment_differences
WHERE provider = $1 ORDER BY found_at DESC, kind, id LIMIT $2
