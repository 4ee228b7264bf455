-- End the sessions of the user $1 but the $2 that were used last.
UPDATE sessions SET ended_at = now(), end_reason = 'too many sessions' WHERE id IN (
    SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND expires_at > now()
    ORDER BY last_used_at DESC, id DESC OFFSET $2)
