-- Whether the session $1 began at most $2 seconds ago, however often it was refreshed since.
SELECT true FROM sessions WHERE id = $1 AND ended_at IS NULL AND created_at > now() - $2 * interval '1 second'
