INSERT INTO webhook_endpoints (id, account_id, url, secret, types, description) VALUES ($1, $2, $3, $4, $5, $6) RETURNING *
