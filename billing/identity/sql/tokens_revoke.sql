-- Refuse the token of the id $1 of the user $2, or of all where that is empty, for the reason $3 and for $4 seconds; no row
-- for a user who has $5 such rows already.
INSERT INTO revoked_tokens (jti, user_id, reason, expires_at)
SELECT $1, $2, $3, now() + $4 * interval '1 second'
WHERE $2 = '' OR (SELECT count(*) FROM revoked_tokens WHERE user_id = $2) < $5
ON CONFLICT (jti, user_id) DO UPDATE SET expires_at = excluded.expires_at
RETURNING jti
