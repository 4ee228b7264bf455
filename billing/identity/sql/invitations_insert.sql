INSERT INTO invitations (id, org_id, email, role, digest, invited_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, now() + $7 * interval '1 second')
RETURNING *, false AS expired
