INSERT INTO payment_customers (account_id, provider) VALUES ($1, $2) ON CONFLICT DO NOTHING
