INSERT INTO payments_parked (id, provider, kind, object_id, account_id, order_id, amount_cents, currency, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (provider, kind, object_id) DO NOTHING
