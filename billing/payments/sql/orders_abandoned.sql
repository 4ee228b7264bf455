-- Orders of account $1 that may be paid still, but for the $3 newest; $4 at most, the oldest first.
SELECT id, checkout_id FROM (
    SELECT id, checkout_id FROM orders
    WHERE account_id = $1 AND provider = $2 AND kind <> 'recharge' AND status IN ('open', 'failed')
    ORDER BY id DESC OFFSET $3
) older
ORDER BY id LIMIT $4
