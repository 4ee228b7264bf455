UPDATE invitations SET revoked_at = now()
WHERE org_id = $1 AND accepted_at IS NULL AND revoked_at IS NULL
RETURNING id, email, role
