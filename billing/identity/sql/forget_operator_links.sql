-- Delete links that were over more than a day ago, at most $1 of them.
WITH deleted AS (
    DELETE FROM operator_links WHERE digest IN (
        SELECT digest FROM operator_links WHERE expires_at < now() - interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1)
SELECT count(*) FROM deleted
