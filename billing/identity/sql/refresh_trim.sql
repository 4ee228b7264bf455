-- Delete the used refresh tokens of the session $1 but the newest $2, so that refreshing in a loop keeps the table bounded.
DELETE FROM refresh_tokens WHERE digest IN (
    SELECT digest FROM refresh_tokens WHERE session_id = $1 AND rotated_at IS NOT NULL
    ORDER BY rotated_at DESC, digest OFFSET $2)
