-- Delete refresh tokens that have expired, at most $1 of them.
WITH gone AS (
    DELETE FROM refresh_tokens WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM refresh_tokens WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING 1)
SELECT count(*) FROM gone
