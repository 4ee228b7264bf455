-- What we have of payment $2, which order $4 asked for: whether it waits for an operator, and what was credited by it.
SELECT orders.id AS order_id, orders.account_id, orders.kind, orders.amount_cents, orders.payment_id,
    EXISTS (SELECT FROM payments_parked
        WHERE provider = $1 AND kind = 'payment' AND object_id = $2) AS parked,
    (SELECT amount_nano FROM transfers
        WHERE idempotency_scope = $5 AND idempotency_key = $3) AS credited_nano
FROM orders WHERE id = $4
