SELECT *, expires_at <= now() AS expired FROM invitations WHERE org_id = $1 AND id = $2
