SELECT id, org_id, scopes, address, user_agent, created_at, last_used_at, expires_at FROM sessions
WHERE user_id = $1 AND id < $2 AND ended_at IS NULL AND expires_at > now() ORDER BY id DESC LIMIT $3
