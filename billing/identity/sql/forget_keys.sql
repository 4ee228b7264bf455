-- Delete keys that verify nothing more, at most $1 of them.
WITH gone AS (
    DELETE FROM signing_keys WHERE kid = ANY (ARRAY(SELECT kid FROM signing_keys WHERE retired_at < now() LIMIT $1))
    RETURNING 1)
SELECT count(*) FROM gone
