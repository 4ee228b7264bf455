-- Start the session $1 of the user $2, in the organization $3 or else the first one, with the refresh token of digest $7,
-- begun at the provider $9 with an address of the domain $10, where it was begun elsewhere.
-- The user's row is locked, so that a password that is being changed, or a user who is being disabled, comes before or after.
WITH person AS (
    SELECT id, email, status = 'active' AS active FROM users WHERE id = $2 AND status <> 'disabled' FOR SHARE),
place AS (
    SELECT org_id, role FROM memberships WHERE user_id = $2 AND ($3::text IS NULL OR org_id = $3)
    ORDER BY created_at, org_id LIMIT 1),
made AS (
    INSERT INTO sessions (id, user_id, org_id, scopes, address, user_agent, expires_at, provider, domain)
    SELECT $1, id, (SELECT org_id FROM place), $4, $5, $6, now() + $8 * interval '1 second', $9, $10 FROM person
    RETURNING id, expires_at),
token AS (
    INSERT INTO refresh_tokens (digest, session_id, expires_at) SELECT $7, id, expires_at FROM made)
SELECT person.id AS user_id, person.email, person.active, made.id AS session_id, $4::text[] AS scopes, place.org_id, place.role,
    extract(epoch FROM now())::float8 AS issued_at, extract(epoch FROM made.expires_at)::float8 AS ends_at
FROM person CROSS JOIN made LEFT JOIN place ON true
