-- End the session of the cookie of digest $1 for the reason $2.
UPDATE sessions SET ended_at = now(), end_reason = $2 WHERE cookie_digest = $1 AND ended_at IS NULL RETURNING id, user_id
