-- Use the link of digest $1 up, and begin the session $2 of an operator with the cookie of digest $3 for $6 seconds, from
-- the address $4 with the browser $5; no row for a link that is unknown, used or over.
WITH used AS (
    UPDATE operator_links SET used_at = now() WHERE digest = $1 AND used_at IS NULL AND expires_at > now() RETURNING 1)
INSERT INTO sessions (id, kind, cookie_digest, address, user_agent, expires_at)
SELECT $2, 'operator', $3, $4, $5, now() + $6 * interval '1 second' FROM used RETURNING id
