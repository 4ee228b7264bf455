UPDATE coupons SET disabled_at = now() WHERE id = $1 RETURNING *
