UPDATE orders SET
    status = $2, payment_id = $3, customer_id = coalesce(customer_id, $4), refunded_cents = $5, disputed_cents = $6,
    reason = $7, updated_at = now()
WHERE id = $1
RETURNING *
