INSERT INTO organizations (id, slug, name, personal, account_id) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (slug) DO NOTHING
RETURNING *
