-- Bind a new session to the cookie of digest $2 for $3 seconds. Its tokens, which nobody was shown, end.
WITH tokens AS (
    DELETE FROM refresh_tokens WHERE session_id = $1)
UPDATE sessions SET kind = 'browser', cookie_digest = $2, expires_at = now() + $3 * interval '1 second'
WHERE id = $1 AND ended_at IS NULL RETURNING id
