-- Open invitations of somebody who may no longer send them, but for those to roles that they still may give.
UPDATE invitations SET revoked_at = now()
WHERE org_id = $1 AND invited_by = $2 AND accepted_at IS NULL AND revoked_at IS NULL AND role <> ALL ($3::text[])
RETURNING id, email, role
