-- End all sessions of the user $1 for the reason $2, but $3; in one order, so that two who do so don't wait for each other.
UPDATE sessions SET ended_at = now(), end_reason = $2 WHERE id IN (
    SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND id IS DISTINCT FROM $3 ORDER BY id FOR UPDATE)
