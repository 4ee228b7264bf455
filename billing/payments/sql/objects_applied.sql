UPDATE payment_objects SET
    applied = $4, state = $5, account_id = coalesce($6, account_id), order_id = coalesce($7, order_id),
    created_at = coalesce($8, created_at), updated_at = now()
WHERE provider = $1 AND kind = $2 AND id = $3
