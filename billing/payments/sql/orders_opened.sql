-- Note the page that was opened for an order, unless another call has noted one meanwhile.
UPDATE orders SET
    customer_id = $2, checkout_id = coalesce(checkout_id, $3), url = coalesce(url, $4),
    expires_at = coalesce(expires_at, $5), updated_at = now()
WHERE id = $1
RETURNING *
