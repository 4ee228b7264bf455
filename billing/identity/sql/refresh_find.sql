-- The refresh token of digest $1 with its session, both locked: two who show it at once come one after the other.
-- $2 is for how many seconds a token that was rotated has its successor given again.
SELECT sessions.id AS session_id, sessions.user_id, sessions.provider, sessions.domain, token.salt,
    token.rotated_at < clock_timestamp() - $2 * interval '1 second' AS reused,
    sessions.ended_at IS NULL AND sessions.expires_at > now() AND token.expires_at > now() AS valid
FROM refresh_tokens token JOIN sessions ON sessions.id = token.session_id
WHERE token.digest = $1 FOR UPDATE
