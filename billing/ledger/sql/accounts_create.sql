INSERT INTO accounts (id, name, plan, credit_limit_nano, quotas, tz) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING *
