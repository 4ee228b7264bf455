-- No row where another collector has moved it since version $2. The lock $9 is shared by all who write points.
UPDATE collect_sources
SET version = version + 1, watermark = $3, since = $4, until = $5, cursor = $6, newest = $7, collected_at = $8, error = ''
FROM (SELECT pg_advisory_xact_lock_shared($9)) AS locked
WHERE source = $1 AND version = $2
RETURNING version
