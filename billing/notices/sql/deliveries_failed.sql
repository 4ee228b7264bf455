-- A try failed; with $4 it is given up. Returns since when all deliveries to its endpoint have failed.
WITH failed AS (
    UPDATE webhook_deliveries SET status = $2, error = $3, parked_at = CASE WHEN $4 THEN now() END WHERE id = $1
    RETURNING endpoint_id
)
UPDATE webhook_endpoints e SET failing_since = coalesce(e.failing_since, now()) FROM failed WHERE e.id = failed.endpoint_id
RETURNING extract(epoch FROM now() - e.failing_since)::float8 AS failing_s
