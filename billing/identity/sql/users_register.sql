-- Add a pending user; no row where a user has the address.
INSERT INTO users (id, email, name, password_hash, status, email_verified_at)
VALUES ($1, $2, $3, $4, $5, CASE WHEN $6 AND $2::text IS NOT NULL THEN now() END)
ON CONFLICT (email) DO NOTHING
RETURNING *
