SELECT id, checkout_id FROM orders WHERE status = 'open' AND expires_at < $1 ORDER BY expires_at LIMIT $2
