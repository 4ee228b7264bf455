-- What an access token of the session $1 says, in the organization $2 or else the session's, or else the first one; no
-- row for a user who is disabled.
SELECT users.id AS user_id, users.email, users.status = 'active' AS active, sessions.id AS session_id, sessions.scopes, place.org_id, place.role,
    extract(epoch FROM now())::float8 AS issued_at, extract(epoch FROM sessions.expires_at)::float8 AS ends_at
FROM sessions JOIN users ON users.id = sessions.user_id
LEFT JOIN LATERAL (
    SELECT org_id, role FROM memberships WHERE user_id = users.id AND ($2::text IS NULL OR org_id = $2)
    ORDER BY org_id = sessions.org_id DESC NULLS LAST, created_at, org_id LIMIT 1) place ON true
WHERE sessions.id = $1 AND sessions.ended_at IS NULL AND users.status <> 'disabled'
