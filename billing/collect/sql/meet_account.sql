-- Account $1, with $2 bytes that it has free; no row where it was met before.
INSERT INTO collected_accounts (account_id, included_bytes) VALUES ($1, $2) ON CONFLICT (account_id) DO NOTHING
RETURNING account_id
