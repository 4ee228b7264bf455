-- Have the session $1 be about the organization $2 from now on, where its user belongs to it.
UPDATE sessions SET org_id = $2 WHERE id = $1 AND ended_at IS NULL
    AND EXISTS (SELECT FROM memberships WHERE org_id = $2 AND user_id = sessions.user_id) RETURNING id
