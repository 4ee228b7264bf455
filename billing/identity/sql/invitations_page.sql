SELECT *, expires_at <= now() AS expired FROM invitations
WHERE org_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3
