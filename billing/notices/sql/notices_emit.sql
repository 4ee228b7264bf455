INSERT INTO notices (account_id, type, data, once) VALUES ($1, $2, $3, $4)
ON CONFLICT (account_id, type, once) DO NOTHING RETURNING id
