INSERT INTO payment_comparisons (provider, asked_since) VALUES ($1, $2)
ON CONFLICT (provider) DO UPDATE SET asked_since = $2
