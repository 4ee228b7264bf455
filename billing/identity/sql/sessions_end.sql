-- End the session $1, for the reason $2; no row where it has ended already.
UPDATE sessions SET ended_at = now(), end_reason = $2 WHERE id = $1 AND ended_at IS NULL RETURNING user_id
