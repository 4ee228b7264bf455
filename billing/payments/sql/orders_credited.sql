UPDATE orders SET
    status = 'credited', credited_at = coalesce(credited_at, now()), transfer_id = coalesce(transfer_id, $2),
    payment_id = coalesce($3, payment_id), subscription_id = coalesce(subscription_id, $4), reason = NULL,
    updated_at = now()
WHERE id = $1
RETURNING *
