-- Jobs whose lease has lapsed, at most $3 of them, become the gateway's ($1) for $2 seconds.
UPDATE background_jobs SET lease_owner = $1, lease_until = now() + $2 * interval '1 second'
WHERE (object_id, provider) IN (
    SELECT object_id, provider FROM background_jobs
    WHERE done_at IS NULL AND lease_until < now()
    ORDER BY lease_until LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING object_id, provider, kind, model, service_tier, request_id, later_id, gateway_id, debit,
    extract(epoch FROM created_at)::float8 AS created_s, extract(epoch FROM expires_at)::float8 AS expires_s
