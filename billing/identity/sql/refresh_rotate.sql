-- Replace the refresh token of digest $1 by that of digest $2, which is made of it and the salt $3, for $4 seconds.
WITH old AS (
    UPDATE refresh_tokens SET rotated_at = clock_timestamp(), salt = $3 WHERE digest = $1 RETURNING session_id),
used AS (
    UPDATE sessions SET last_used_at = now(), expires_at = now() + $4 * interval '1 second' FROM old WHERE id = session_id)
INSERT INTO refresh_tokens (digest, session_id, expires_at) SELECT $2, session_id, now() + $4 * interval '1 second' FROM old
