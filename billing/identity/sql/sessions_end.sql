-- End the session $1 for the reason $2, where it is one of the user $3 or that is null; no row where it has ended already.
UPDATE sessions SET ended_at = now(), end_reason = $2
WHERE id = $1 AND ended_at IS NULL AND ($3::text IS NULL OR user_id = $3) RETURNING user_id
