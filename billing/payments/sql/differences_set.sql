INSERT INTO payment_differences (provider, kind, id, account_id, order_id, difference) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (provider, kind, id) DO UPDATE
SET account_id = excluded.account_id, order_id = excluded.order_id, difference = excluded.difference
