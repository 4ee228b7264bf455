INSERT INTO coupons (id, name, code_sha256, amount_nano, priority, credit_days, expires_at, most_redemptions)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *
