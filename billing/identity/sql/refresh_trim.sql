-- Forget the oldest used refresh tokens of the session $1 but $2: who refreshes in a loop fills nothing.
DELETE FROM refresh_tokens WHERE digest IN (
    SELECT digest FROM refresh_tokens WHERE session_id = $1 AND rotated_at IS NOT NULL
    ORDER BY rotated_at DESC, digest OFFSET $2)
