-- Delete sessions that ended more than a day ago, with their refresh tokens, at most $1 of them.
WITH gone AS (
    SELECT id FROM sessions WHERE least(ended_at, expires_at) < now() - interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED),
tokens AS (
    DELETE FROM refresh_tokens WHERE session_id IN (SELECT id FROM gone)),
deleted AS (
    DELETE FROM sessions WHERE id IN (SELECT id FROM gone) RETURNING 1)
SELECT count(*) FROM deleted
