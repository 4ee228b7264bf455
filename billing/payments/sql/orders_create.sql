-- Create an order. A repeated idempotency key of the account inserts nothing: the caller reads the first order.
INSERT INTO orders (id, account_id, kind, amount_cents, plan, provider, urls, save_method, idempotency_key, request_digest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (account_id, idempotency_key) DO NOTHING
RETURNING *
